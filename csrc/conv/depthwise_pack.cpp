// Packing a depthwise weight, and distrusting a packed one.
#include "conv/depthwise_packed.h"

#include <cmath>
#include <cstring>

namespace pc {
namespace {

constexpr char kMagic[8] = {'P', 'C', 'd', 'e', 'p', 't', 'h', 'w'};
constexpr uint32_t kVersion = 1;

struct Layout {
  size_t scale, sum, blocks, block_bytes, bytes;
  Blocks cut;
};

pc_status layout_of(pc_type type, int64_t outputs, int64_t kh, int64_t kw, const Kernels& kernels, Layout* layout) {
  PC_CHECK(type == PC_S8 || type == PC_F32, PC_ERROR_TYPE, "the type of w is %d, wanted PC_S8 or PC_F32", type);
  PC_CHECK(outputs >= 0 && kh >= 1 && kw >= 1, PC_ERROR_SHAPE, "w is [%lld, %lld, %lld], wanted outputs >= 0 and a kernel of at least 1 x 1",
           ll(outputs), ll(kh), ll(kw));
  const int64_t most = INT32_MAX / (255 * 128);
  PC_CHECK(kh <= most && kw <= most && kh * kw <= most, PC_ERROR_OVERFLOW, "the kernel is %lld x %lld, wanted at most %lld taps", ll(kh), ll(kw),
           ll(most));
  PC_CHECK(outputs <= int64_t{1} << 31, PC_ERROR_OVERFLOW, "outputs are %lld, wanted at most 2^31", ll(outputs));
  const bool s8 = type == PC_S8;
  const int block = s8 ? kernels.depthwise_s8->block : kernels.depthwise_f32->block;
  layout->cut = blocks_of(outputs, block, s8);
  layout->block_bytes = s8 ? kernels.depthwise_s8->block_bytes(kh, kw) : static_cast<size_t>(kh * kw * block) * sizeof(float);
  const size_t per_output = s8 ? round_up(static_cast<size_t>(outputs) * 4, kAlignment) : 0;
  layout->scale = sizeof(DepthwiseHeader);
  layout->sum = layout->scale + per_output;
  layout->blocks = layout->sum + per_output;
  size_t all;
  PC_CHECK(multiply(layout->block_bytes, static_cast<size_t>(layout->cut.count), &all) && all <= PTRDIFF_MAX / 2, PC_ERROR_OVERFLOW,
           "the weight [%lld, %lld, %lld] is larger than memory", ll(outputs), ll(kh), ll(kw));
  layout->bytes = layout->blocks + round_up(all, kAlignment);
  return PC_OK;
}

bool reads(const Kernels& kernels, const DepthwiseHeader& h) {
  return h.type == PC_S8 ? kernels.depthwise_s8->block == h.block && kernels.depthwise_s8->group == h.group : kernels.depthwise_f32->block == h.block;
}

// The active kernels if they read this form, else the best that do.
bool find_reader(const DepthwiseHeader& h, const Kernels** kernels) {
  if (active_kernels(kernels) == PC_OK && reads(**kernels, h)) return true;
  for (int32_t i = pc_isa_count(); i-- > 0;) {
    *kernels = kernels_of(i);
    if (*kernels && reads(**kernels, h)) return true;
  }
  return false;
}

// [taps][block] from w[channels][taps].
void gather(const float* w, int64_t taps, int channels, int block, float* to) {
  for (int64_t t = 0; t < taps; ++t)
    for (int c = 0; c < channels; ++c) to[t * block + c] = w[c * taps + t];
}

}  // namespace

pc_status depthwise_open(const void* packed, size_t bytes, DepthwisePacked* p) {
  PC_CHECK(packed, PC_ERROR_NULL, "packed is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= sizeof(DepthwiseHeader), PC_ERROR_BUFFER, "packed has %zu bytes, a header alone has %zu", bytes, sizeof(DepthwiseHeader));
  const DepthwiseHeader* h = static_cast<const DepthwiseHeader*>(packed);
  PC_CHECK(std::memcmp(h->magic, kMagic, sizeof kMagic) == 0 && h->version == kVersion && (h->type == PC_S8 || h->type == PC_F32), PC_ERROR_FORMAT,
           "packed does not begin as a depthwise weight does");
  PC_CHECK(find_reader(*h, &p->kernels), PC_ERROR_ISA, "packed was made for another kind of CPU: blocks of %u, groups of %u; pack it here", h->block,
           h->group);
  Layout layout{};
  if (layout_of(h->type, h->outputs, h->kh, h->kw, *p->kernels, &layout) != PC_OK || layout.bytes != h->bytes)
    return fail(PC_ERROR_FORMAT, "packed says [%lld, %lld, %lld] in %llu bytes, which do not agree", ll(h->outputs), ll(h->kh), ll(h->kw),
                static_cast<unsigned long long>(h->bytes));
  PC_CHECK(bytes >= layout.bytes, PC_ERROR_BUFFER, "packed has %zu bytes, its header wants %zu", bytes, layout.bytes);
  const char* base = static_cast<const char*>(packed);
  p->header = h;
  p->scale = reinterpret_cast<const float*>(base + layout.scale);
  p->sum = reinterpret_cast<const int32_t*>(base + layout.sum);
  p->blocks = base + layout.blocks;
  p->block_bytes = layout.block_bytes;
  return PC_OK;
}

}  // namespace pc

extern "C" {

pc_status pc_depthwise_pack_size(pc_type w_type, int64_t outputs, int64_t kernel_height, int64_t kernel_width, size_t* bytes) {
  using namespace pc;
  PC_CHECK(bytes, PC_ERROR_NULL, "bytes is NULL");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  Layout layout{};
  PC_TRY(layout_of(w_type, outputs, kernel_height, kernel_width, *kernels, &layout));
  *bytes = layout.bytes;
  return PC_OK;
}

pc_status pc_depthwise_pack(const void* w, pc_type w_type, int64_t outputs, int64_t kernel_height, int64_t kernel_width, const float* scale,
                            void* packed, size_t bytes) {
  using namespace pc;
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  Layout layout{};
  PC_TRY(layout_of(w_type, outputs, kernel_height, kernel_width, *kernels, &layout));
  const int64_t taps = kernel_height * kernel_width;
  const bool s8 = w_type == PC_S8;
  PC_CHECK(packed && (w || outputs == 0), PC_ERROR_NULL, "%s is NULL", packed ? "w" : "packed");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= layout.bytes, PC_ERROR_BUFFER, "packed has %zu bytes, wanted %zu", bytes, layout.bytes);
  PC_CHECK((s8 || is_aligned(w, alignof(float))) && is_aligned(scale, alignof(float)), PC_ERROR_ALIGNMENT, "w or scale is not aligned to float");
  PC_CHECK(s8 || !scale, PC_ERROR_VALUE, "scale is given, which goes with PC_S8 only");
  PC_CHECK(!overlap(packed, bytes, w, static_cast<size_t>(outputs * taps) * (s8 ? 1 : 4)), PC_ERROR_OVERLAP, "packed overlaps w");
  PC_CHECK(!scale || !overlap(packed, bytes, scale, static_cast<size_t>(outputs) * 4), PC_ERROR_OVERLAP, "packed overlaps scale");
  for (int64_t i = 0; scale && i < outputs; ++i)
    PC_CHECK(scale[i] > 0 && std::isfinite(scale[i]), PC_ERROR_VALUE, "scale[%lld] is %g, wanted positive and finite", ll(i),
             static_cast<double>(scale[i]));
  char* base = static_cast<char*>(packed);
  std::memset(base, 0, bytes);
  DepthwiseHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.type = w_type;
  header.block = static_cast<uint16_t>(layout.cut.block);
  header.group = s8 ? static_cast<uint16_t>(kernels->depthwise_s8->group) : uint16_t{1};
  header.outputs = outputs;
  header.kh = kernel_height;
  header.kw = kernel_width;
  header.bytes = layout.bytes;
  std::memcpy(base, &header, sizeof header);
  float* scales = reinterpret_cast<float*>(base + layout.scale);
  int32_t* sums = reinterpret_cast<int32_t*>(base + layout.sum);
  for (int64_t i = 0; s8 && i < outputs; ++i) {
    scales[i] = scale ? scale[i] : 1.0f;
    for (int64_t t = 0; t < taps; ++t) sums[i] += static_cast<const int8_t*>(w)[i * taps + t];
  }
  for (int64_t b = 0; b < layout.cut.count; ++b) {
    char* to = base + layout.blocks + static_cast<size_t>(b) * layout.block_bytes;
    const int channels = layout.cut.channels(b), block = layout.cut.block;
    const bool dual = layout.cut.dual && b == layout.cut.full;
    const int64_t first = b * block * taps;
    if (s8)
      kernels->depthwise_s8->pack_block(static_cast<const int8_t*>(w) + first, channels, dual, kernel_height, kernel_width, to);
    else
      gather(static_cast<const float*>(w) + first, taps, channels, block, reinterpret_cast<float*>(to));
  }
  return PC_OK;
}

pc_status pc_depthwise_packed_info(const void* packed, size_t bytes, pc_type* w_type, int64_t* outputs, int64_t* kernel_height, int64_t* kernel_width,
                                   const char** kernel) {
  pc::DepthwisePacked p{};
  PC_TRY(pc::depthwise_open(packed, bytes, &p));
  if (w_type) *w_type = p.header->type;
  if (outputs) *outputs = p.header->outputs;
  if (kernel_height) *kernel_height = p.header->kh;
  if (kernel_width) *kernel_width = p.header->kw;
  if (kernel) *kernel = p.header->type == PC_S8 ? p.kernels->depthwise_s8->name : p.kernels->depthwise_f32->name;
  return PC_OK;
}
}
