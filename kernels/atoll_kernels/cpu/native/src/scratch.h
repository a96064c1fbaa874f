// Per-thread scratch memory, kept between calls.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

namespace kernels {

// Pieces are valid until their Scratch is destroyed. A thread may have one Scratch at a time.
class Scratch {
  public:
    Scratch() : blocks_(storage()) {}
    Scratch(const Scratch&) = delete;

    template <class T>
    T* take(int64_t count) {
        const size_t bytes = ((size_t)count * sizeof(T) + 63) / 64 * 64;
        if (next_ == blocks_.size()) blocks_.push_back({nullptr, 0});
        Piece& piece = blocks_[next_++];
        if (piece.bytes < bytes) {
            std::free(piece.memory);
            piece.memory = std::aligned_alloc(64, bytes);
            piece.bytes = bytes;
            if (!piece.memory) throw std::bad_alloc();
        }
        return (T*)piece.memory;
    }

  private:
    struct Piece {
        void* memory;
        size_t bytes;
    };
    struct Storage : std::vector<Piece> {
        ~Storage() {
            for (Piece& piece : *this) std::free(piece.memory);
        }
    };
    static Storage& storage() {
        static thread_local Storage pieces;
        return pieces;
    }
    Storage& blocks_;
    size_t next_ = 0;
};

}  // namespace kernels
