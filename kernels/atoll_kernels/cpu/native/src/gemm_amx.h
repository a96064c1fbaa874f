// Products of whole tiles (AMX): registers of 16 rows of 64 bytes, two by two of them at a time.
#pragma once

#include <type_traits>

#include "gemm_microkernel.h"

#if defined(__AMX_TILE__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kernels {

// Nothing to do beside a product.
struct Nothing {
    INLINE void operator()() const {}
};

#if defined(__AMX_TILE__)

constexpr int kMostRows = 32;   // of a product: two registers of 16
constexpr int kTileWords = 16;  // of the inner dimension in a register

// Whether the kernel lets this process use the registers; asked once.
inline bool has_tiles() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return allowed;
}

// The shapes of this thread's registers, until destroyed: sums are 0 to 3, rows of A 4 and 5,
// panels of B 6 and 7.
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
        // GCC believes that 8 bytes are read, and may leave out what sets the others.
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

// Adds to one of the four sums; the instructions take registers by literal numbers alone.
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

// c (rows, two panels) (+)= a (rows, k words) * b: panel v at b + v * panel, its rows of 16 words
// `stride` apart. lda, panel, stride, k and ldc in words; k is a multiple of kTileWords. Once: b is
// not to be kept in the first cache. beside() runs while the tiles multiply, in every step of k but
// the first: what the product before has stored cannot be read at once.
template <class Policy, bool Once, bool Low, bool Right, class Beside>
INLINE void tiles_product(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t panel,
                          int64_t stride, int64_t k, void* c, int64_t ldc, bool accumulate,
                          const Beside& beside) {
    __asm__ volatile("" : : : "memory");  // GCC does not know that loads of tiles read memory
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
        if (i) beside();
    }
    _tile_stored(0, c, 4 * ldc);
    if (Right) _tile_stored(1, right, 4 * ldc);
    if (Low) _tile_stored(2, low, 4 * ldc);
    if (Low && Right) _tile_stored(3, last, 4 * ldc);
}

// The same for any number of rows up to kMostRows and of panels.
template <class Policy, bool Once = false, class Beside = Nothing>
void multiply_tiles(Tiles& tiles, int64_t rows, const uint32_t* a, int64_t lda, const uint32_t* b,
                    int64_t panel, int64_t stride, int64_t k, void* c, int64_t ldc, int64_t panels,
                    bool accumulate, const Beside& beside = {}) {
    tiles.shape(rows);
    const auto pair = [&](auto low, auto right, int64_t p) {
        tiles_product<Policy, Once, low, right>(a, lda, b + p * panel, panel, stride, k,
                                                (uint32_t*)c + 16 * p, ldc, accumulate, beside);
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

// Whether products with rows of so many words of two bfloat16 go by tiles here.
template <class Policy>
INLINE bool is_tiled(int64_t rows, int64_t words) {
#if defined(__AMX_TILE__)
    constexpr int64_t kLeast = 4;  // rows that are worth the set-up of the registers
    return Policy::kPerWord == 2 && words % kTileWords == 0 && rows >= kLeast && has_tiles();
#else
    return (void)rows, (void)words, false;
#endif
}

// See `multiply`; of up to kMostRows rows if `tiled`, where alone Once and `beside` count. ahead: what
// is fetched if not `tiled`, or null; with it, there are at most two panels.
template <class Policy, bool Once = false, class Beside = Nothing>
INLINE void multiply(Tiles& tiles, bool tiled, int64_t rows, const uint32_t* a, int64_t lda,
                     const uint32_t* b, int64_t panel, int64_t k, Floats* c, int64_t ldc,
                     int64_t panels, bool accumulate, const Beside& beside = {},
                     const uint32_t* ahead = nullptr) {
#if defined(__AMX_TILE__)
    if (tiled)
        return multiply_tiles<TilesBfloat16, Once>(tiles, rows, a, lda, b, panel, W, k, c, W * ldc,
                                                   panels, accumulate, beside);
#endif
    (void)tiles, (void)tiled, (void)beside;
    multiply<Policy>(rows, a, lda, b, panel, k, c, ldc, panels, accumulate, ahead);
}

}  // namespace kernels
