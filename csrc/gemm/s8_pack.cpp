// Packing an int8 weight, and distrusting a packed one.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gemm/s8_packed.h"

namespace pc {
namespace {

constexpr char kMagic[8] = {'P', 'C', 'g', 'e', 'm', 'm', 's', '8'};
constexpr uint32_t kVersion = 1;

// A weight is split when that leaves a rest of at most one quad in kRestShare values: with twice as much, the rest costs what the faster products
// gain. With a short k the rest's fixed cost for each panel is too much; a column of a quad has 16 bits.
constexpr int64_t kRestShare = 96, kRestLeastK = 192, kRestMostK = UINT16_MAX;

uint32_t rest_capacity(int64_t n, int64_t k) {
  return k < kRestLeastK || k > kRestMostK ? 0 : static_cast<uint32_t>(std::min<int64_t>(n * k / kRestShare, UINT32_MAX / 8));
}

const GemmS8Kernel* kernel_of(const Kernels& kernels, const S8Header& h) {
  const GemmS8Kernel* kernel = h.split ? kernels.gemm_s8_split : kernels.gemm_s8;
  return kernel && kernel->nr == h.nr && kernel->group == h.group ? kernel : nullptr;
}

// The active kernels if they read this form, else the best that do.
bool find_reader(const S8Header& h, S8Packed* p) {
  if (active_kernels(&p->kernels) == PC_OK && (p->kernel = kernel_of(*p->kernels, h))) return true;
  for (int32_t i = pc_isa_count(); i-- > 0;) {
    p->kernels = kernels_of(i);
    if (p->kernels && (p->kernel = kernel_of(*p->kernels, h))) return true;
  }
  return false;
}

// One panel: panel[s][i][g] = w[i, s * G + g], and the sums over k. Each loop walks along the contiguous side of w and writes a group at a
// time; kSteps keeps what the first writes in L1.
template <int G>
void pack_panel(const uint8_t* w, uint8_t flip, int64_t columns, int64_t k, int64_t ldn, int64_t ldk, int nr, int8_t* panel, int32_t* sum) {
  constexpr int64_t kSteps = 128;
  const int64_t whole = k / G;
  std::memset(panel, 0, static_cast<size_t>(divide_up(k, int64_t{G}) * G * nr));
  const auto group = [=](int64_t s, int64_t i) { return panel + (s * nr + i) * G; };
  const auto value = [=](int64_t i, int64_t j) { return static_cast<int8_t>(w[i * ldn + j * ldk] ^ flip); };
  const auto place = [&](int64_t s, int64_t i) {
    int8_t bytes[G];
    int32_t total = 0;
    for (int g = 0; g < G; ++g) total += bytes[g] = value(i, s * G + g);
    std::memcpy(group(s, i), bytes, G);
    sum[i] += total;
  };
  if (ldk == 1) {
    for (int64_t s0 = 0; s0 < whole; s0 += kSteps)
      for (int64_t i = 0; i < columns; ++i) {
        const uint8_t* row = w + i * ldn;
        for (int64_t s = s0; s < std::min(s0 + kSteps, whole); ++s) {
          int8_t bytes[G];
          for (int g = 0; g < G; ++g) bytes[g] = static_cast<int8_t>(row[s * G + g] ^ flip);
          std::memcpy(group(s, i), bytes, G);
        }
        int32_t total = 0;
        for (int64_t j = s0 * G; j < std::min(s0 + kSteps, whole) * G; ++j) total += static_cast<int8_t>(row[j] ^ flip);
        sum[i] += total;
      }
  } else {
    for (int64_t s = 0; s < whole; ++s)
      for (int64_t i = 0; i < columns; ++i) place(s, i);
  }
  for (int64_t i = 0; i < columns; ++i)
    for (int64_t j = whole * G; j < k; ++j) {
      group(whole, i)[j - whole * G] = value(i, j);
      sum[i] += value(i, j);
    }
}

struct Rest {
  uint32_t* begin;
  S8RestQuad* quads;
  uint32_t count, capacity;
};

// Beyond that the sum of two neighbours, by x up to 255, leaves 16 bits.
bool saturates(int a, int b) { return a + b > 128 || a + b < -128; }

// Cuts the second of two neighbours of k down where vpmaddubsw would saturate. What is cut off becomes an entry. False when there is no room for it.
bool split_panel(int8_t* panel, int64_t steps, int nr, Rest* rest) {
  for (int i = 0; i < nr; ++i) {
    int place = 0;  // of the next entry of this output
    for (int64_t s = 0; s < steps; ++s) {
      int8_t* group = panel + (s * nr + i) * 4;
      for (int g = 0; g < 4; g += 2) {
        if (!saturates(group[g], group[g + 1])) continue;
        const int cut = group[g] + group[g + 1] + (group[g] > 0 ? -128 : 128);
        group[g + 1] = static_cast<int8_t>(group[g + 1] - cut);
        if (place % 2 && saturates(rest->quads[rest->count - 1].value[place % 4 - 1], cut)) ++place;
        if (place % 4 == 0) {
          if (rest->count == rest->capacity) return false;
          rest->quads[rest->count++] = {{}, {}, static_cast<uint16_t>(i), static_cast<uint16_t>(place ? UINT16_MAX : 0)};
        }
        S8RestQuad& quad = rest->quads[rest->count - 1];
        quad.column[place % 4] = static_cast<uint16_t>(s * 4 + g + 1);
        quad.value[place % 4] = static_cast<int8_t>(cut);
        ++place;
      }
    }
  }
  return true;
}

}  // namespace

pc_status s8_check_k(int64_t k, bool w_wide) {
  const int64_t largest = INT32_MAX / (255 * (w_wide ? 255 : 128));
  PC_CHECK(k <= largest, PC_ERROR_OVERFLOW, "k is %lld: sums of that many products could overflow int32; wanted at most %lld", ll(k), ll(largest));
  return PC_OK;
}

pc_status s8_layout(int64_t n, int64_t k, const GemmS8Kernel& kernel, uint32_t rest_count, S8Layout* layout) {
  PC_CHECK(n >= 0 && k >= 0, PC_ERROR_SHAPE, "the weight is [%lld, %lld], wanted sizes >= 0", ll(n), ll(k));
  PC_TRY(s8_check_k(k, false));
  PC_CHECK(n <= INT64_MAX / (int64_t{1} << 24), PC_ERROR_OVERFLOW, "n is %lld, wanted at most 2^39", ll(n));
  layout->np = round_up(n, static_cast<int64_t>(kernel.nr));
  layout->steps = divide_up(k, static_cast<int64_t>(kernel.group));
  size_t end = sizeof(S8Header);
  const auto section = [&end](size_t bytes) {
    const size_t begin = end;
    end = round_up(begin + bytes, kAlignment);
    return begin;
  };
  const size_t np = static_cast<size_t>(layout->np);
  layout->scale = section(np * 4);
  layout->sum = section(np * 4);
  layout->panels = section(np * static_cast<size_t>(layout->steps * kernel.group));
  if (kernel.rest) {
    layout->rest_begin = section((np / static_cast<size_t>(kernel.nr) + 1) * sizeof(uint32_t));
    layout->rest = section(rest_count * sizeof(S8RestQuad));
  }
  layout->bytes = end;
  return PC_OK;
}

pc_status s8_open(const void* packed, size_t bytes, S8Packed* p) {
  PC_CHECK(packed, PC_ERROR_NULL, "packed is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= sizeof(S8Header), PC_ERROR_BUFFER, "packed has %zu bytes, a header alone has %zu", bytes, sizeof(S8Header));
  const S8Header* h = static_cast<const S8Header*>(packed);
  PC_CHECK(std::memcmp(h->magic, kMagic, sizeof kMagic) == 0, PC_ERROR_FORMAT, "packed does not begin as a weight of gemm_s8 does");
  PC_CHECK(h->version == kVersion, PC_ERROR_FORMAT, "packed has version %u, wanted %u", h->version, kVersion);
  PC_CHECK(h->nr >= 1 && h->nr <= kMaxNr && (h->group == 2 || h->group == 4) && h->w_unsigned <= 1 && h->split <= 1 &&
               ((h->split && h->k > 0) || h->rest_count == 0),
           PC_ERROR_FORMAT, "packed is of an unknown layout: panels of %u, groups of %u", h->nr, h->group);
  PC_CHECK(find_reader(*h, p), PC_ERROR_ISA, "packed was made for another kind of CPU: panels of %u, groups of %u%s; pack it here", h->nr, h->group,
           h->split ? ", split" : "");
  S8Layout layout{};
  if (s8_layout(h->n, h->k, *p->kernel, h->rest_count, &layout) != PC_OK || layout.bytes != h->bytes)
    return fail(PC_ERROR_FORMAT, "packed says [%lld, %lld] in %llu bytes, which do not agree", ll(h->n), ll(h->k),
                static_cast<unsigned long long>(h->bytes));
  PC_CHECK(bytes >= layout.bytes, PC_ERROR_BUFFER, "packed has %zu bytes, its header wants %zu", bytes, layout.bytes);
  const char* base = static_cast<const char*>(packed);
  p->header = h;
  p->scale = reinterpret_cast<const float*>(base + layout.scale);
  p->sum = reinterpret_cast<const int32_t*>(base + layout.sum);
  p->panels = reinterpret_cast<const int8_t*>(base + layout.panels);
  p->steps = layout.steps;
  p->panel_bytes = layout.steps * h->group * h->nr;
  p->rest_begin = nullptr;
  if (h->rest_count > 0) {
    p->rest_begin = reinterpret_cast<const uint32_t*>(base + layout.rest_begin);
    p->rest = reinterpret_cast<const S8RestQuad*>(base + layout.rest);
  }
  return PC_OK;
}

}  // namespace pc

extern "C" {

pc_status pc_gemm_s8_pack_size(int64_t n, int64_t k, size_t* bytes) {
  using namespace pc;
  PC_CHECK(bytes, PC_ERROR_NULL, "bytes is NULL");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  S8Layout layout{};
  PC_TRY(s8_layout(n, k, *kernels->gemm_s8, 0, &layout));
  *bytes = layout.bytes;
  if (kernels->gemm_s8_split) {
    PC_TRY(s8_layout(n, k, *kernels->gemm_s8_split, rest_capacity(n, k), &layout));
    *bytes = std::max(*bytes, layout.bytes);
  }
  return PC_OK;
}

pc_status pc_gemm_s8_pack(const void* w, pc_type w_type, int64_t n, int64_t k, int64_t ldn, int64_t ldk, const float* scale, void* packed,
                          size_t bytes) {
  using namespace pc;
  PC_CHECK(w_type == PC_S8 || w_type == PC_U8, PC_ERROR_TYPE, "w_type is %d, wanted PC_S8 or PC_U8", w_type);
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  size_t wanted;
  PC_TRY(pc_gemm_s8_pack_size(n, k, &wanted));
  PC_CHECK(packed && (w || n == 0 || k == 0), PC_ERROR_NULL, "%s is NULL", packed ? "w" : "packed");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= wanted, PC_ERROR_BUFFER, "packed has %zu bytes, wanted %zu", bytes, wanted);
  PC_CHECK(is_aligned(scale, alignof(float)), PC_ERROR_ALIGNMENT, "scale is not aligned to float");
  Span source;
  PC_CHECK(span_of(w, n, k, ldn, ldk, 1, &source), PC_ERROR_OVERFLOW, "w [%lld, %lld] with strides %lld and %lld is larger than memory", ll(n), ll(k),
           ll(ldn), ll(ldk));
  if (n <= 1 || k == 0) ldn = k;  // there is no second row, or nothing in one: it leads nowhere
  if (k <= 1) ldk = 1;
  PC_CHECK(!overlap(packed, bytes, source.begin, source.bytes), PC_ERROR_OVERLAP, "packed overlaps w");
  PC_CHECK(!scale || !overlap(packed, bytes, scale, static_cast<size_t>(n) * 4), PC_ERROR_OVERLAP, "packed overlaps scale");
  for (int64_t i = 0; scale && i < n; ++i)
    PC_CHECK(scale[i] > 0 && std::isfinite(scale[i]), PC_ERROR_VALUE, "scale[%lld] is %g, wanted positive and finite", ll(i),
             static_cast<double>(scale[i]));

  char* base = static_cast<char*>(packed);
  const auto pack_for = [&](const GemmS8Kernel& kernel, uint32_t capacity) {
    const int nr = kernel.nr, group = kernel.group;
    S8Layout layout{};
    if (s8_layout(n, k, kernel, capacity, &layout) != PC_OK) return false;
    std::memset(base, 0, layout.panels);
    std::memset(base + layout.panels, 0, bytes - layout.panels);
    float* scales = reinterpret_cast<float*>(base + layout.scale);
    int32_t* sums = reinterpret_cast<int32_t*>(base + layout.sum);
    for (int64_t i = 0; i < n; ++i) scales[i] = scale ? scale[i] : 1.0f;
    const auto pack = group == 4 ? pack_panel<4> : pack_panel<2>;
    Rest rest{reinterpret_cast<uint32_t*>(base + layout.rest_begin), reinterpret_cast<S8RestQuad*>(base + layout.rest), 0, capacity};
    for (int64_t i = 0; i < n; i += nr) {
      int8_t* panel = reinterpret_cast<int8_t*>(base + layout.panels) + i * layout.steps * group;
      pack(static_cast<const uint8_t*>(w) + i * ldn, w_type == PC_U8 ? 0x80 : 0, std::min<int64_t>(nr, n - i), k, ldn, ldk, nr, panel, sums + i);
      if (!kernel.rest) continue;
      if (!split_panel(panel, layout.steps, nr, &rest)) return false;
      rest.begin[i / nr + 1] = rest.count;
    }
    if (s8_layout(n, k, kernel, rest.count, &layout) != PC_OK) return false;  // the quads that there are
    S8Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.nr = static_cast<uint16_t>(nr);
    header.group = static_cast<uint16_t>(group);
    header.n = n;
    header.k = k;
    header.bytes = layout.bytes;
    header.w_unsigned = w_type == PC_U8;
    header.split = kernel.rest != nullptr;
    header.rest_count = rest.count;
    std::memcpy(base, &header, sizeof header);
    return true;
  };
  if (!kernels->gemm_s8_split || !pack_for(*kernels->gemm_s8_split, rest_capacity(n, k))) pack_for(*kernels->gemm_s8, 0);
  return PC_OK;
}

pc_status pc_gemm_s8_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, const char** kernel) {
  pc::S8Packed p{};
  PC_TRY(pc::s8_open(packed, bytes, &p));
  if (n) *n = p.header->n;
  if (k) *k = p.header->k;
  if (kernel) *kernel = p.kernel->name;
  return PC_OK;
}
}
