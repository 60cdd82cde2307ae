// Packing an int4 weight, and distrusting a packed one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "gemm/s4_packed.h"

namespace pc {
namespace {

constexpr char kMagic[8] = {'P', 'C', 'g', 'e', 'm', 'm', 's', '4'};
constexpr uint32_t kVersion = 2;

struct Layout {
  int64_t chunks, groups, panel_bytes;
  size_t bytes;
};

pc_status layout_of(int64_t n, int64_t k, int64_t group_chunks, int64_t nr, Layout* layout) {
  PC_CHECK(n >= 0 && k >= 0, PC_ERROR_SHAPE, "the weight is [%lld, %lld], wanted sizes >= 0", ll(n), ll(k));
  PC_CHECK(k <= kS4LongestK, PC_ERROR_OVERFLOW, "k is %lld: sums of that many products could overflow int32; wanted at most %lld", ll(k),
           ll(kS4LongestK));
  PC_CHECK(n <= INT64_MAX / (int64_t{1} << 24), PC_ERROR_OVERFLOW, "n is %lld, wanted at most 2^39", ll(n));
  layout->chunks = divide_up(k, kS4Chunk);
  layout->groups = divide_up(layout->chunks, group_chunks);
  layout->panel_bytes = nr * (layout->groups * (4 + s4_sum_bytes(group_chunks)) + layout->chunks * kS4Chunk / 2);
  layout->bytes = sizeof(S4Header) + static_cast<size_t>(divide_up(n, nr) * layout->panel_bytes);
  return PC_OK;
}

// In chunks. One group for all of k: as many as k has, so that equal weights are equal bytes.
pc_status group_chunks_of(int64_t k, int64_t group_size, int64_t* group_chunks) {
  PC_CHECK(group_size >= 0 && (group_size % kS4Chunk == 0 || group_size >= k), PC_ERROR_VALUE,
           "group_size is %lld, wanted a multiple of 32, or 0 or at least k for one group", ll(group_size));
  const int64_t all = std::max<int64_t>(1, divide_up(k, kS4Chunk));
  *group_chunks = group_size == 0 ? all : std::min(all, divide_up(group_size, kS4Chunk));
  return PC_OK;
}

const GemmS4Kernel* kernel_of(const Kernels& kernels, const S4Header& h) {
  return static_cast<uint32_t>(kernels.gemm_s4->nr) == h.nr ? kernels.gemm_s4 : nullptr;
}

// The active kernels if they read this form, else the best that do.
bool find_reader(const S4Header& h, S4Packed* p) {
  if (active_kernels(&p->kernels) == PC_OK && (p->kernel = kernel_of(*p->kernels, h))) return true;
  for (int32_t i = pc_isa_count(); i-- > 0;) {
    p->kernels = kernels_of(i);
    if (p->kernels && (p->kernel = kernel_of(*p->kernels, h))) return true;
  }
  return false;
}

// Values [8 * eight, 8 * eight + 8) of one row, as 4 bytes: the first four in the low halves, the others in the high ones, all plus 8. Their sum.
int32_t place(const uint8_t* row, int64_t k, int64_t eight, uint8_t* out) {
  uint8_t u[8];
  for (int64_t i = 0; i < 8; ++i) {
    const int64_t j = eight * 8 + i;
    u[i] = j < k ? static_cast<uint8_t>((row[j / 2] >> (j % 2 * 4) & 15) ^ 8) : 8;  // two's complement plus 8
  }
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint8_t>(u[i] | u[i + 4] << 4);
  return std::accumulate(u, u + 8, -8 * 8);
}

}  // namespace

pc_status s4_open(const void* packed, size_t bytes, S4Packed* p) {
  PC_CHECK(packed, PC_ERROR_NULL, "packed is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= sizeof(S4Header), PC_ERROR_BUFFER, "packed has %zu bytes, a header alone has %zu", bytes, sizeof(S4Header));
  const S4Header* h = static_cast<const S4Header*>(packed);
  PC_CHECK(std::memcmp(h->magic, kMagic, sizeof kMagic) == 0, PC_ERROR_FORMAT, "packed does not begin as a weight of gemm_s4 does");
  PC_CHECK(h->version == kVersion, PC_ERROR_FORMAT, "packed has version %u, wanted %u", h->version, kVersion);
  PC_CHECK(h->nr >= 1 && h->nr <= kMaxNr && h->group_chunks >= 1 && h->group_chunks <= kS4LongestK / kS4Chunk, PC_ERROR_FORMAT,
           "packed is of an unknown layout: panels of %u, groups of %lld chunks", h->nr, ll(h->group_chunks));
  PC_CHECK(find_reader(*h, p), PC_ERROR_ISA, "packed was made for another kind of CPU: panels of %u; pack it here", h->nr);
  Layout layout{};
  if (layout_of(h->n, h->k, h->group_chunks, h->nr, &layout) != PC_OK || layout.bytes != h->bytes ||
      h->group_chunks > std::max<int64_t>(1, layout.chunks))
    return fail(PC_ERROR_FORMAT, "packed says [%lld, %lld], groups of %lld chunks, in %llu bytes, which do not agree", ll(h->n), ll(h->k),
                ll(h->group_chunks), static_cast<unsigned long long>(h->bytes));
  PC_CHECK(bytes >= layout.bytes, PC_ERROR_BUFFER, "packed has %zu bytes, its header wants %zu", bytes, layout.bytes);
  p->header = h;
  p->panels = static_cast<const char*>(packed) + sizeof(S4Header);
  p->chunks = layout.chunks;
  p->groups = layout.groups;
  p->panel_bytes = layout.panel_bytes;
  return PC_OK;
}

}  // namespace pc

extern "C" {

pc_status pc_gemm_s4_pack_size(int64_t n, int64_t k, int64_t group_size, size_t* bytes) {
  using namespace pc;
  PC_CHECK(bytes, PC_ERROR_NULL, "bytes is NULL");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  int64_t group_chunks = 1;
  PC_TRY(group_chunks_of(k, group_size, &group_chunks));
  Layout layout{};
  PC_TRY(layout_of(n, k, group_chunks, kernels->gemm_s4->nr, &layout));
  *bytes = layout.bytes;
  return PC_OK;
}

pc_status pc_gemm_s4_pack(const uint8_t* w, int64_t n, int64_t k, int64_t ldn, int64_t group_size, const float* scale, void* packed, size_t bytes) {
  using namespace pc;
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  size_t wanted;
  PC_TRY(pc_gemm_s4_pack_size(n, k, group_size, &wanted));
  const int64_t row_bytes = divide_up(k, int64_t{2});
  if (ldn == 0) ldn = row_bytes;
  PC_CHECK(ldn >= row_bytes, PC_ERROR_SHAPE, "ldn is %lld, wanted at least %lld bytes for k = %lld", ll(ldn), ll(row_bytes), ll(k));
  PC_CHECK(packed && ((w && scale) || n == 0 || k == 0), PC_ERROR_NULL, "%s is NULL", !packed ? "packed" : w ? "scale" : "w");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= wanted, PC_ERROR_BUFFER, "packed has %zu bytes, wanted %zu", bytes, wanted);
  PC_CHECK(is_aligned(scale, alignof(float)), PC_ERROR_ALIGNMENT, "scale is not aligned to float");
  int64_t group_chunks = 1;
  PC_TRY(group_chunks_of(k, group_size, &group_chunks));
  const int nr = kernels->gemm_s4->nr;
  Layout layout{};
  PC_TRY(layout_of(n, k, group_chunks, nr, &layout));
  Span source;
  PC_CHECK(span_of(w, n, row_bytes, ldn, 1, 1, &source), PC_ERROR_OVERFLOW, "w of %lld rows, %lld bytes apart, is larger than memory", ll(n),
           ll(ldn));
  PC_CHECK(!overlap(packed, bytes, source.begin, source.bytes), PC_ERROR_OVERLAP, "packed overlaps w");
  PC_CHECK(!overlap(packed, bytes, scale, static_cast<size_t>(n * layout.groups) * 4), PC_ERROR_OVERLAP, "packed overlaps scale");
  for (int64_t i = 0; i < n * layout.groups; ++i)
    PC_CHECK(scale[i] > 0 && std::isfinite(scale[i]), PC_ERROR_VALUE, "scale[%lld, %lld] is %g, wanted positive and finite", ll(i / layout.groups),
             ll(i % layout.groups), static_cast<double>(scale[i]));

  char* base = static_cast<char*>(packed);
  S4Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.nr = static_cast<uint32_t>(nr);
  header.n = n;
  header.k = k;
  header.group_chunks = group_chunks;
  header.bytes = layout.bytes;
  std::memcpy(base, &header, sizeof header);
  std::memset(base + layout.bytes, 0, bytes - layout.bytes);
  const int64_t sum_bytes = s4_sum_bytes(group_chunks);
  // Row by row of w within a panel: it is read once in order, and the panel is small enough to be written with gaps.
  for (int64_t n0 = 0; n0 < n; n0 += nr) {
    char* panel = base + sizeof header + n0 / nr * layout.panel_bytes;
    for (int i = 0; i < nr; ++i) {
      const bool exists = n0 + i < n;
      const uint8_t* row = exists && k > 0 ? w + (n0 + i) * ldn : nullptr;
      char* out = panel;
      for (int64_t g = 0; g < layout.groups; ++g) {
        const float value = exists ? scale[(n0 + i) * layout.groups + g] : 0.0f;
        std::memcpy(out + i * 4, &value, 4);
        char* sum_at = out + nr * 4 + i * sum_bytes;
        out += nr * (4 + sum_bytes);
        int32_t sum = 0;
        for (int64_t c = g * group_chunks; c < std::min(layout.chunks, (g + 1) * group_chunks); ++c)
          for (int j = 0; j < 4; ++j, out += nr * 4) sum += place(row, exists ? k : 0, c * 4 + j, reinterpret_cast<uint8_t*>(out) + i * 4);
        std::memcpy(sum_at, &sum, static_cast<size_t>(sum_bytes));  // the low bytes of int32 are int16, where it fits
      }
    }
  }
  return PC_OK;
}

pc_status pc_gemm_s4_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, int64_t* group_size, const char** kernel) {
  pc::S4Packed p{};
  PC_TRY(pc::s4_open(packed, bytes, &p));
  if (n) *n = p.header->n;
  if (k) *k = p.header->k;
  if (group_size) *group_size = p.header->group_chunks * pc::kS4Chunk;
  if (kernel) *kernel = p.kernel->name;
  return PC_OK;
}
}
