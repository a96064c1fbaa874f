"""Native CPU implementations (C++ over a plain C ABI)."""
