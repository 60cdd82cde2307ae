// int8 depthwise in plain C++: the fallback on any CPU, and the plainest reading. Any taps by pointers, 16 channels at a time; a loop over channels
// is what a compiler puts into vectors.
#include "conv/depthwise_order.h"

namespace pc {
namespace PC_NS {
namespace {

constexpr int BLOCK = 16;

template <bool Signed, bool Raw> void taps_block(const DepthwiseS8Tile& t) {
  for (int64_t n = 0; n < t.count; ++n) {
    int32_t acc[BLOCK];
    memcpy(acc, t.start, sizeof acc);
    const int8_t* w = (const int8_t*)t.w;
    for (int64_t i = 0; i < t.taps; ++i, w += BLOCK) {
      const uint8_t* x = (const uint8_t*)(t.pixel[n * t.taps + i] + t.offset);
      for (int c = 0; c < BLOCK; ++c) acc[c] += (x[c] ^ (Signed ? 0x80 : 0)) * w[c];
    }
    if (Raw) {
      memcpy(t.raw + n * BLOCK, acc, sizeof acc);
      continue;
    }
    for (int c = 0; c < t.channels; ++c) {
      const int32_t q = vi_from_vf((float)acc[c] * t.mult[c]) + t.y_zero_point;
      t.y[n * t.y_pixel + c] = (char)((q < t.low ? t.low : q > t.high ? t.high : q) ^ t.flip);
    }
  }
}

template <bool Signed, bool Raw> void taps(const DepthwiseS8Tile& given) {
  DepthwiseS8Tile t = given;
  for (int n = given.blocks; n > 0; --n) {
    taps_block<Signed, Raw>(t);
    t.w = (const char*)t.w + t.w_bytes;
    t.start += BLOCK;
    t.mult += BLOCK;
    t.offset += BLOCK;
    t.y += BLOCK;
  }
}

size_t block_bytes(int64_t kh, int64_t kw) { return (size_t)(kh * kw * BLOCK); }
size_t taps_offset(int64_t, int64_t) { return 0; }
void pack_block(const int8_t* w, int channels, bool, int64_t kh, int64_t kw, void* block) {
  for (int64_t t = 0; t < kh * kw; ++t)
    for (int c = 0; c < BLOCK; ++c) ((int8_t*)block)[t * BLOCK + c] = c < channels ? w[c * kh * kw + t] : (int8_t)0;
}
void order(const void* natural, int n, bool, void* ordered) {
  memset(ordered, 0, 4 * BLOCK);
  memcpy(ordered, natural, 4 * (size_t)n);
}

}  // namespace

extern const DepthwiseS8Kernel depthwise_s8;
constexpr DepthwiseS8Kernel depthwise_s8 = {"depthwise_s8/" PC_ISA_NAME,
                                            BLOCK,
                                            1,
                                            {},
                                            {{taps<false, false>, taps<true, false>}, {taps<false, true>, taps<true, true>}},
                                            block_bytes,
                                            taps_offset,
                                            pack_block,
                                            order,
                                            {finish<ToS32>, finish<ToF32>, finish<ToQ8>}};

}  // namespace PC_NS
}  // namespace pc
