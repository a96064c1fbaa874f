"""Ollama's interface, on the chats of ``chat_formats``."""
