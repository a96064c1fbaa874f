// GEMM with AMX tiles (registers of 16 rows of 64 bytes), in blocks of 2 x 2 tiles.
#pragma once

#include <type_traits>

#include "gemm_microkernel.h"

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kernels {

// Runs nothing during a product.
struct NoOverlap {
    INLINE void operator()() const {}
};

#if defined(__AMX_TILE__)

constexpr int kMostRows = 32;   // rows of a product: two tiles of 16
constexpr int kTileWords = 16;  // words of the inner dimension in a tile

// Whether the operating system lets this process use tiles; asked once.
inline bool has_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return allowed;
}

// The tile configuration of this thread, released on destruction: tiles 0 to 3 are sums, 4 and 5 rows
// of A, 6 and 7 panels of B.
class Tiles {
  public:
    ~Tiles() {
        if (rows_) _tile_release();
    }
    // For products of up to kMostRows rows.
    void shape(int64_t rows) {
        if (rows == rows_) return;
        rows_ = rows;
        alignas(64) Config config = {};
        const uint8_t upper = rows < 16 ? rows : 16, lower = rows > 16 ? rows - 16 : 1;
        const uint8_t tile_rows[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
        for (int i = 0; i < 8; ++i) config.rows[i] = tile_rows[i], config.bytes[i] = 64;
        // GCC assumes that the instruction reads 8 bytes, and may drop the stores to the rest.
        __asm__ volatile("" : : "m"(config));
        _tile_loadconfig(&config);
    }

  private:
    struct Config {
        uint8_t palette = 1, start = 0, unused[14] = {};
        uint16_t bytes[16] = {};
        uint8_t rows[16] = {};
    };
    int64_t rows_ = 0;
};

// Adds to one of the four sums; the instructions need literal tile numbers.
#define STEPS(name, instruction)                                \
    struct name {                                               \
        static INLINE void upper_left() { instruction(0, 4, 6); }  \
        static INLINE void upper_right() { instruction(1, 4, 7); } \
        static INLINE void lower_left() { instruction(2, 5, 6); }  \
        static INLINE void lower_right() { instruction(3, 5, 7); } \
    };
STEPS(TilesBfloat16, _tile_dpbf16ps)
STEPS(TilesBytes, _tile_dpbsud)  // signed bytes of A, unsigned bytes of B
#undef STEPS

// c (rows, two panels) (+)= a (rows, k words) * b: panel v at b + v * panel, its rows of 16 words with
// a stride of `stride`. lda, panel, stride, k and ldc in words; k is a multiple of kTileWords. Once:
// b is loaded without being kept in L1. overlap() runs while the tiles multiply, in every step of k
// but the first, when the results of the product before are not yet readable without a stall.
template <class Policy, bool Once, bool Low, bool Right, class Overlap>
INLINE void tiles_product(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t panel,
                          int64_t stride, int64_t k, void* c, int64_t ldc, bool accumulate,
                          const Overlap& overlap) {
    __asm__ volatile("" : : : "memory");  // GCC does not know that tile loads read memory
    const auto right = (uint32_t*)c + 16, low = (uint32_t*)c + 16 * ldc, last = low + 16;
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        if (Right) _tile_loadd(1, right, 4 * ldc);
        if (Low) _tile_loadd(2, low, 4 * ldc);
        if (Low && Right) _tile_loadd(3, last, 4 * ldc);
    } else {
        _tile_zero(0);
        if (Right) _tile_zero(1);
        if (Low) _tile_zero(2);
        if (Low && Right) _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i += kTileWords) {
        if (Once) _tile_stream_loadd(6, b + i * stride, 4 * stride);
        else _tile_loadd(6, b + i * stride, 4 * stride);
        _tile_loadd(4, a + i, 4 * lda);
        Policy::upper_left();
        if (Right) {
            if (Once) _tile_stream_loadd(7, b + panel + i * stride, 4 * stride);
            else _tile_loadd(7, b + panel + i * stride, 4 * stride);
            Policy::upper_right();
        }
        if (Low) {
            _tile_loadd(5, a + 16 * lda + i, 4 * lda);
            Policy::lower_left();
            if (Right) Policy::lower_right();
        }
        if (i) overlap();
    }
    _tile_stored(0, c, 4 * ldc);
    if (Right) _tile_stored(1, right, 4 * ldc);
    if (Low) _tile_stored(2, low, 4 * ldc);
    if (Low && Right) _tile_stored(3, last, 4 * ldc);
}

// The same for up to kMostRows rows and any number of panels.
template <class Policy, bool Once = false, class Overlap = NoOverlap>
void multiply_tiles(Tiles& tiles, int64_t rows, const uint32_t* a, int64_t lda, const uint32_t* b,
                    int64_t panel, int64_t stride, int64_t k, void* c, int64_t ldc, int64_t panels,
                    bool accumulate, const Overlap& overlap = {}) {
    tiles.shape(rows);
    const auto pair = [&](auto low, auto right, int64_t p) {
        tiles_product<Policy, Once, low, right>(a, lda, b + p * panel, panel, stride, k,
                                                (uint32_t*)c + 16 * p, ldc, accumulate, overlap);
    };
    using Yes = std::true_type;
    using No = std::false_type;
    for (int64_t p = 0; p < panels; p += 2) {
        if (p + 1 < panels) rows > 16 ? pair(Yes(), Yes(), p) : pair(No(), Yes(), p);
        else rows > 16 ? pair(Yes(), No(), p) : pair(No(), No(), p);
    }
}

#else

struct Tiles {};
constexpr int kMostRows = kTileRows, kTileWords = 16;

#endif

// Whether a product with rows of `words` words uses AMX here.
template <class Policy>
INLINE bool is_tiled(int64_t rows, int64_t words) {
#if defined(__AMX_TILE__)
    constexpr int64_t kLeast = 4;  // rows that are worth configuring the tiles
    return Policy::kPerWord == 2 && words % kTileWords == 0 && rows >= kLeast && has_tiles();
#else
    return (void)rows, (void)words, false;
#endif
}

// See the other `multiply` and, if `tiled`, `multiply_tiles`. Once and overlap apply to tiles only.
// ahead applies to the rest, and then there are at most two panels.
template <class Policy, bool Once = false, class Overlap = NoOverlap>
INLINE void multiply(Tiles& tiles, bool tiled, int64_t rows, const uint32_t* a, int64_t lda,
                     const uint32_t* b, int64_t panel, int64_t k, Floats* c, int64_t ldc,
                     int64_t panels, bool accumulate, const Overlap& overlap = {},
                     const uint32_t* ahead = nullptr) {
#if defined(__AMX_TILE__)
    if (tiled)
        return multiply_tiles<TilesBfloat16, Once>(tiles, rows, a, lda, b, panel, W, k, c, W * ldc,
                                                   panels, accumulate, overlap);
#endif
    (void)tiles, (void)tiled, (void)overlap;
    multiply<Policy>(rows, a, lda, b, panel, k, c, ldc, panels, accumulate, ahead);
}

}  // namespace kernels
