// Packing a sparse weight, and distrusting both the matrix and a packed one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gemm/s8_packed.h"
#include "sparse/packed.h"

namespace pc {
namespace {

constexpr char kMagic[8] = {'P', 'C', 's', 'p', 'm', 'm', '0', '1'};
constexpr uint32_t kVersion = 2;
constexpr uint32_t kNothing = 0x80000000u;  // -0.0: its product with the zeros of the panel's last position changes no sum

struct Step {
  uint8_t position[4];
  int8_t weight[kSparseShared][4];  // of int8
  float value[kSparseShared];       // of float32
};

// The matrix, read as steps. R: outputs that share their positions.
class Source {
 public:
  Source(const pc_sparse_matrix& w, const SparseHeader& header)
      : w_(w), shared_(header.shared ? kSparseShared : 1), columns_(header.columns), split_(header.split) {}

  // Calls emit(step) for the outputs from n on, for k0 <= k < k1.
  template <class Emit> void steps(int64_t n, int64_t k0, int64_t k1, Emit emit) const {
    if (n >= w_.n) return;
    if (w_.type == PC_F32)
      each(n, k0, k1, [&](int64_t k, int64_t at) {
        Step step;
        step.position[0] = static_cast<uint8_t>(k - k0);
        for (int i = 0; i < shared_; ++i) step.value[i] = static_cast<const float*>(w_.data)[at + i * w_.block_k];
        emit(step);
      });
    else if (columns_)
      column_steps(n, k0, k1, emit);
    else
      quad_steps(n, k0, k1, emit);
  }

  // Weights of output n at every k, in order.
  template <class Visit> void each(int64_t n, int64_t k0, int64_t k1, Visit visit) const {
    const int64_t r = w_.block_n, c = w_.block_k, row = n / r;
    const int32_t* end = w_.indices + w_.indptr[row + 1];
    k1 = std::min(k1, w_.k);
    for (const int32_t* i = std::lower_bound(w_.indices + w_.indptr[row], end, k0 / c); i < end && *i * c < k1; ++i) {
      const int64_t first = *i * c, at = ((i - w_.indices) * r + n % r) * c;
      for (int64_t k = std::max(first, k0); k < std::min(first + c, k1); ++k) visit(k, at + k - first);
    }
  }

 private:
  // Clears the step for its next use.
  template <class Emit> void emit_split(Step& step, Emit emit) const {
    Step cut{};
    bool any = false;
    std::memcpy(cut.position, step.position, sizeof cut.position);
    for (int i = 0; split_ && i < shared_; ++i)
      for (int g = 0; g < 4; g += 2) {
        constexpr int limit = 128;  // 255 * 128 < 2^15
        int8_t* pair = step.weight[i] + g;
        const int sum = pair[0] + pair[1], more = sum > limit ? sum - limit : sum < -limit ? sum + limit : 0;
        pair[1] = static_cast<int8_t>(pair[1] - more);
        cut.weight[i][g + 1] = static_cast<int8_t>(more);
        any |= more != 0;
      }
    emit(step);
    if (any) emit(cut);
    step = Step{};
  }

  // 0 when all are 0, which contributes nothing.
  bool take(Step& step, int at_lane, int64_t at) const {
    bool any = false;
    for (int i = 0; i < shared_; ++i) any |= (step.weight[i][at_lane] = static_cast<const int8_t*>(w_.data)[at + i * w_.block_k]) != 0;
    return any;
  }

  template <class Emit> void quad_steps(int64_t n, int64_t k0, int64_t k1, Emit emit) const {
    Step step{};
    int64_t quad = -1;  // that the step holds weights of
    each(n, k0 * 4, k1 * 4, [&](int64_t k, int64_t at) {
      if (quad >= 0 && k / 4 != quad) {
        emit_split(step, emit);
        quad = -1;
      }
      step.position[0] = static_cast<uint8_t>(k / 4 - k0);
      if (take(step, static_cast<int>(k % 4), at)) quad = k / 4;
    });
    if (quad >= 0) emit_split(step, emit);
  }

  template <class Emit> void column_steps(int64_t n, int64_t k0, int64_t k1, Emit emit) const {
    Step step{};
    int count = 0;
    each(n, k0, k1, [&](int64_t k, int64_t at) {
      if (!take(step, count, at)) return;
      step.position[count] = static_cast<uint8_t>(k - k0);
      if (++count < 4) return;
      emit_split(step, emit);
      count = 0;
    });
    if (count > 0) emit_split(step, emit);
  }

  const pc_sparse_matrix& w_;
  int shared_;
  bool columns_, split_;
};

// Outputs of a chunk (or fours of them) by their number of steps, the most first.
struct Units {
  struct Unit {
    uint32_t steps;
    int output;
  } unit[kSparseChunk];
  int count;

  Units(const Source& source, const SparseHeader& h, const SparseLayout& l, int64_t chunk, int64_t block) {
    const int shared = h.shared ? kSparseShared : 1;
    const int64_t n0 = chunk * kSparseChunk;
    count = static_cast<int>(std::min<int64_t>(kSparseChunk, l.np - n0)) / shared;
    for (int i = 0; i < count; ++i) {
      unit[i] = {0, i * shared};
      source.steps(n0 + i * shared, block * h.block, (block + 1) * h.block, [&](const Step&) { ++unit[i].steps; });
    }
    std::sort(unit, unit + count, [](const Unit& a, const Unit& b) { return a.steps != b.steps ? a.steps > b.steps : a.output < b.output; });
  }
};

// Calls group(entry of the table, units, first unit) for all groups, with the entry's begin and steps.
template <class Group> uint64_t for_groups(const Source& source, const SparseHeader& h, const SparseLayout& l, Group group) {
  const int shared = h.shared ? kSparseShared : 1, in_group = kSparseGroup / shared;
  uint64_t begin = 0;
  int64_t entry = 0;
  for (int64_t chunk = 0; chunk < l.chunks; ++chunk)
    for (int64_t block = 0; block < l.blocks; ++block) {
      const Units units(source, h, l, chunk, block);
      for (int u = 0; u < units.count; u += in_group) {
        group(entry++, block, chunk, units.unit + u, begin);
        begin += units.unit[u].steps;
      }
    }
  return begin;
}

// Of at most `most` positions in a block.
SparseHeader header_of(const pc_sparse_matrix& w, const Kernels& kernels, bool columns, int64_t most) {
  SparseHeader h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kVersion;
  h.type = static_cast<uint16_t>(w.type);
  h.shared = w.block_n % kSparseShared == 0;
  h.columns = columns;
  h.n = w.n;
  h.k = w.k;
  h.split = w.type == PC_S8 && kernels.sparse_s8->saturates;
  // Blocks of k as even as can be.
  const int64_t positions = w.type == PC_F32 ? w.k : columns ? round_up<int64_t>(w.k, 4) : divide_up<int64_t>(w.k, 4);
  const int64_t step = columns ? 4 * kSparsePosition : kSparsePosition;
  const int64_t blocks = std::max<int64_t>(1, divide_up(positions, most));
  h.block = static_cast<uint32_t>(std::max(step, round_up(divide_up(positions, blocks), step)));
  return h;
}

// The form that takes the least time, with its number of steps.
pc_status plan(const pc_sparse_matrix& w, const Kernels& kernels, SparseHeader* header, SparseLayout* layout) {
  const auto count = [&](bool columns, int64_t most) {
    SparseHeader h = header_of(w, kernels, columns, most);
    SparseLayout l{};
    if (sparse_layout(h, &l)) h.steps = for_groups(Source(w, h), h, l, [](int64_t, int64_t, int64_t, const Units::Unit*, uint64_t) {});
    return h;
  };
  *header = count(false, kSparseBlock);
  if (w.type == PC_S8 && w.block_k % 4 != 0) {
    const SparseHeader other = count(true, kSparseBlockOfColumns);
    // Interleaving 4 columns costs two thirds of the products of an output (AVX2, whose products are three instructions: a third), or a tenth of
    // those of four. Measured at 128x768x768 and 256x1024x4096.
    const double more = other.shared ? 1.1 : header->split ? 1.37 : 1.62;
    if (static_cast<double>(other.steps) * more < static_cast<double>(header->steps)) *header = other;
  }
  // Fewer steps than one for 8 positions: then longer blocks are the faster ones, where the kernels take them.
  const int64_t longest = (w.type == PC_F32 ? kernels.sparse_f32->few : kernels.sparse_s8->few).positions;
  if (!header->columns && longest > kSparseBlock && sparse_layout(*header, layout) &&
      static_cast<int64_t>(header->steps) * 8 * kSparseGroup <= layout->np * layout->positions)
    *header = count(false, longest);
  PC_CHECK(header->steps <= UINT32_MAX && sparse_layout(*header, layout), PC_ERROR_OVERFLOW, "the weight [%lld, %lld] is larger than memory", ll(w.n),
           ll(w.k));
  header->bytes = layout->bytes;
  return PC_OK;
}

pc_status check_scale(const pc_sparse_matrix& w) {
  PC_CHECK(is_aligned(w.scale, alignof(float)), PC_ERROR_ALIGNMENT, "scale is not aligned to float");
  PC_CHECK(!w.scale || w.type == PC_S8, PC_ERROR_VALUE, "scale is given with float32 data, wanted NULL");
  for (int64_t i = 0; w.scale && i < w.n; ++i)
    PC_CHECK(w.scale[i] > 0 && std::isfinite(w.scale[i]), PC_ERROR_VALUE, "scale[%lld] is %g, wanted positive and finite", ll(i),
             static_cast<double>(w.scale[i]));
  return PC_OK;
}

// Blocks may reach over n and k; what lies there has to be zero.
template <class T> pc_status check_overhang(const pc_sparse_matrix& w, int64_t block, int64_t n, int64_t k) {
  for (int64_t i = 0; i < w.block_n; ++i)
    for (int64_t j = 0; j < w.block_k; ++j)
      PC_CHECK((n + i < w.n && k + j < w.k) || static_cast<const T*>(w.data)[(block * w.block_n + i) * w.block_k + j] == 0, PC_ERROR_VALUE,
               "block %lld is not zero where it reaches over the weight [%lld, %lld]", ll(block), ll(w.n), ll(w.k));
  return PC_OK;
}

pc_status check_matrix(const pc_sparse_matrix* matrix) {
  PC_CHECK(matrix, PC_ERROR_NULL, "w is NULL");
  const pc_sparse_matrix& w = *matrix;
  PC_CHECK(w.size == sizeof w, PC_ERROR_STRUCT, "w->size is %zu, wanted %zu", w.size, sizeof w);
  PC_CHECK(w.type == PC_F32 || w.type == PC_S8, PC_ERROR_TYPE, "type is %d, wanted PC_F32 or PC_S8", w.type);
  PC_CHECK(w.n >= 0 && w.k >= 0, PC_ERROR_SHAPE, "the weight is [%lld, %lld], wanted sizes >= 0", ll(w.n), ll(w.k));
  PC_CHECK(w.block_n >= 1 && w.block_k >= 1, PC_ERROR_SHAPE, "blocks are [%lld, %lld], wanted sizes >= 1", ll(w.block_n), ll(w.block_k));
  constexpr int64_t most = INT32_MAX;
  PC_CHECK(w.n <= most && w.k <= most && w.block_n <= most && w.block_k <= most && w.blocks <= most, PC_ERROR_OVERFLOW,
           "the weight is [%lld, %lld] with %lld blocks [%lld, %lld], wanted at most 2^31 - 1 of each", ll(w.n), ll(w.k), ll(w.blocks), ll(w.block_n),
           ll(w.block_k));
  if (w.type == PC_S8) PC_TRY(s8_check_k(w.k, false));
  size_t values;
  PC_CHECK(w.blocks >= 0, PC_ERROR_SHAPE, "blocks is %lld, wanted >= 0", ll(w.blocks));
  PC_CHECK(multiply(static_cast<size_t>(w.block_n), static_cast<size_t>(w.block_k), &values) &&
               multiply(values, static_cast<size_t>(w.blocks) * 4, &values) && values <= PTRDIFF_MAX,
           PC_ERROR_OVERFLOW, "data is larger than memory");
  const int64_t rows = divide_up(w.n, w.block_n), columns = divide_up(w.k, w.block_k);
  PC_CHECK(w.indptr && ((w.data && w.indices) || w.blocks == 0), PC_ERROR_NULL, "data, indices or indptr is NULL");
  PC_CHECK(is_aligned(w.data, w.type == PC_F32 ? 4 : 1) && is_aligned(w.indices, 4) && is_aligned(w.indptr, 4), PC_ERROR_ALIGNMENT,
           "data, indices or indptr is not aligned to its element type");
  PC_CHECK(w.indptr[0] == 0 && w.indptr[rows] == w.blocks, PC_ERROR_SHAPE, "indptr goes from %d to %d, wanted 0 to the number of blocks, %lld",
           w.indptr[0], w.indptr[rows], ll(w.blocks));
  for (int64_t i = 0; i < rows; ++i)
    PC_CHECK(w.indptr[i] <= w.indptr[i + 1] && w.indptr[i + 1] <= w.blocks, PC_ERROR_VALUE,
             "indptr[%lld] and [%lld] are %d and %d, wanted ascending numbers up to %lld", ll(i), ll(i + 1), w.indptr[i], w.indptr[i + 1],
             ll(w.blocks));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = w.indptr[i]; j < w.indptr[i + 1]; ++j) {
      PC_CHECK(w.indices[j] >= 0 && w.indices[j] < columns, PC_ERROR_VALUE, "indices[%lld] is %d, wanted 0 to %lld", ll(j), w.indices[j],
               ll(columns - 1));
      PC_CHECK(j == w.indptr[i] || w.indices[j] > w.indices[j - 1], PC_ERROR_VALUE,
               "indices[%lld] is %d after %d in row %lld, wanted ascending and unique", ll(j), w.indices[j], w.indices[j - 1], ll(i));
      const int64_t n = i * w.block_n, k = w.indices[j] * w.block_k;
      if (n + w.block_n > w.n || k + w.block_k > w.k)
        PC_TRY(w.type == PC_F32 ? check_overhang<float>(w, j, n, k) : check_overhang<int8_t>(w, j, n, k));
    }
  return check_scale(w);
}

bool reads(const Kernels* kernels, const SparseHeader& h) { return kernels && !(h.type == PC_S8 && kernels->sparse_s8->saturates && !h.split); }

}  // namespace

bool sparse_layout(const SparseHeader& h, SparseLayout* l) {
  const int64_t each = h.columns ? 4 : 1;
  l->np = round_up<int64_t>(h.n, kSparseGroup);
  l->chunks = divide_up<int64_t>(l->np, kSparseChunk);
  l->positions = h.type == PC_F32 ? h.k : divide_up<int64_t>(h.k, 4) * each;
  l->blocks = std::max<int64_t>(1, divide_up<int64_t>(l->positions, h.block));
  size_t end = sizeof(SparseHeader), groups = 0;
  bool fits = multiply(static_cast<size_t>(l->np / kSparseGroup), static_cast<size_t>(l->blocks), &groups);
  l->groups = static_cast<int64_t>(groups);
  l->units = (h.shared ? kSparseGroup / kSparseShared : kSparseGroup) * static_cast<int>(each);
  const auto section = [&](size_t count, size_t size) {
    const size_t begin = end;
    size_t bytes = 0;
    fits = fits && multiply(count, size, &bytes) && bytes <= PTRDIFF_MAX / 2 && end <= PTRDIFF_MAX / 2;
    end = round_up(begin + bytes, kAlignment);
    return begin;
  };
  const size_t per_output = h.type == PC_S8 ? static_cast<size_t>(l->np) : 0;
  l->scale = section(per_output, 4);
  l->sum = section(per_output, 4);
  l->table = section(groups, sizeof(SparseEntry));
  l->value = section(static_cast<size_t>(h.steps), 4 * kSparseGroup);
  l->position = section(static_cast<size_t>(h.steps), static_cast<size_t>(l->units));
  l->bytes = end;
  return fits;
}

pc_status sparse_open(const void* packed, size_t bytes, SparsePacked* p) {
  PC_CHECK(packed, PC_ERROR_NULL, "packed is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= sizeof(SparseHeader), PC_ERROR_BUFFER, "packed has %zu bytes, a header alone has %zu", bytes, sizeof(SparseHeader));
  const SparseHeader* h = static_cast<const SparseHeader*>(packed);
  PC_CHECK(std::memcmp(h->magic, kMagic, sizeof kMagic) == 0, PC_ERROR_FORMAT, "packed does not begin as a sparse weight does");
  PC_CHECK(h->version == kVersion, PC_ERROR_FORMAT, "packed has version %u, wanted %u", h->version, kVersion);
  PC_CHECK((h->type == PC_F32 || h->type == PC_S8) && h->shared <= 1 && h->columns <= (h->type == PC_S8) && h->split <= 1 && h->block > 0 &&
               h->block <= static_cast<uint32_t>(h->columns ? kSparseBlockOfColumns : kSparseLongBlock) && h->block % kSparsePosition == 0 &&
               h->n >= 0 && h->n <= INT32_MAX && h->k >= 0 && h->k <= INT32_MAX && h->steps <= UINT32_MAX &&
               (!h->columns || h->block % (4 * kSparsePosition) == 0),
           PC_ERROR_FORMAT, "packed is of an unknown layout");
  if (h->type == PC_S8) PC_TRY(s8_check_k(h->k, false));
  PC_CHECK(sparse_layout(*h, &p->layout) && p->layout.bytes == h->bytes, PC_ERROR_FORMAT,
           "packed says [%lld, %lld] in %llu bytes, which do not agree", ll(h->n), ll(h->k), static_cast<unsigned long long>(h->bytes));
  PC_CHECK(bytes >= h->bytes, PC_ERROR_BUFFER, "packed has %zu bytes, its header wants %llu", bytes, static_cast<unsigned long long>(h->bytes));
  PC_TRY(active_kernels(&p->kernels));
  for (int32_t i = pc_isa_count(); i > 0 && !reads(p->kernels, *h);) p->kernels = kernels_of(--i);
  PC_CHECK(reads(p->kernels, *h), PC_ERROR_ISA, "packed was made for another kind of CPU; pack it here");
  const char* base = static_cast<const char*>(packed);
  p->header = h;
  p->scale = reinterpret_cast<const float*>(base + p->layout.scale);
  p->sum = reinterpret_cast<const int32_t*>(base + p->layout.sum);
  p->table = reinterpret_cast<const SparseEntry*>(base + p->layout.table);
  p->value = reinterpret_cast<const uint32_t*>(base + p->layout.value);
  p->position = reinterpret_cast<const uint8_t*>(base + p->layout.position);
  p->kernel = h->type == PC_F32 ? p->kernels->sparse_f32->name : p->kernels->sparse_s8->name;
  return PC_OK;
}

}  // namespace pc

extern "C" {

pc_status pc_spmm_pack_size(const pc_sparse_matrix* w, size_t* bytes) {
  using namespace pc;
  PC_CHECK(bytes, PC_ERROR_NULL, "bytes is NULL");
  PC_TRY(check_matrix(w));
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  SparseHeader header;
  SparseLayout layout;
  PC_TRY(plan(*w, *kernels, &header, &layout));
  *bytes = layout.bytes;
  return PC_OK;
}

pc_status pc_spmm_pack(const pc_sparse_matrix* w, void* packed, size_t bytes) {
  using namespace pc;
  PC_TRY(check_matrix(w));
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  SparseHeader h;
  SparseLayout l;
  PC_TRY(plan(*w, *kernels, &h, &l));
  PC_CHECK(packed, PC_ERROR_NULL, "packed is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= l.bytes, PC_ERROR_BUFFER, "packed has %zu bytes, wanted %zu", bytes, l.bytes);
  const size_t blocks = static_cast<size_t>(w->blocks), size = w->type == PC_F32 ? 4 : 1;
  PC_CHECK(!overlap(packed, bytes, w->data, blocks * static_cast<size_t>(w->block_n * w->block_k) * size) &&
               !overlap(packed, bytes, w->indices, blocks * 4) &&
               !overlap(packed, bytes, w->indptr, (static_cast<size_t>(divide_up(w->n, w->block_n)) + 1) * 4) &&
               !(w->scale && overlap(packed, bytes, w->scale, static_cast<size_t>(w->n) * 4)),
           PC_ERROR_OVERLAP, "packed overlaps w");

  char* base = static_cast<char*>(packed);
  std::memset(base, 0, bytes);
  std::memcpy(base, &h, sizeof h);
  SparseEntry* table = reinterpret_cast<SparseEntry*>(base + l.table);
  uint32_t* value = reinterpret_cast<uint32_t*>(base + l.value);
  uint8_t* position = reinterpret_cast<uint8_t*>(base + l.position);
  const Source source(*w, h);
  const int shared = h.shared ? kSparseShared : 1, in_group = kSparseGroup / shared, each = h.columns ? 4 : 1;
  for_groups(source, h, l, [&](int64_t entry, int64_t block, int64_t chunk, const Units::Unit* unit, uint64_t begin) {
    table[entry].begin = static_cast<uint32_t>(begin);
    table[entry].steps = unit[0].steps;
    uint32_t* values = value + begin * kSparseGroup;
    uint8_t* positions = position + begin * static_cast<uint64_t>(l.units);
    if (w->type == PC_F32) {
      std::fill_n(values, unit[0].steps * size_t{kSparseGroup}, kNothing);
      std::fill_n(positions, unit[0].steps * static_cast<size_t>(l.units), static_cast<uint8_t>(h.block));
    }
    for (int u = 0; u < in_group; ++u) {
      for (int i = 0; i < shared; ++i) table[entry].output[u * shared + i] = static_cast<uint8_t>(unit[u].output + i);
      uint32_t* v = values + u * shared;
      uint8_t* p = positions + u * each;
      source.steps(chunk * kSparseChunk + unit[u].output, block * h.block, (block + 1) * h.block, [&](const Step& step) {
        for (int i = 0; i < shared; ++i) std::memcpy(v + i, w->type == PC_F32 ? static_cast<const void*>(&step.value[i]) : step.weight[i], 4);
        std::memcpy(p, step.position, static_cast<size_t>(each));
        v += kSparseGroup;
        p += l.units;
      });
    }
  });
  if (w->type == PC_S8) {
    float* scale = reinterpret_cast<float*>(base + l.scale);
    int32_t* sum = reinterpret_cast<int32_t*>(base + l.sum);
    for (int64_t n = 0; n < w->n; ++n) {
      scale[n] = w->scale ? w->scale[n] : 1.0f;
      source.each(n, 0, w->k, [&](int64_t, int64_t at) { sum[n] += static_cast<const int8_t*>(w->data)[at]; });
    }
  }
  return PC_OK;
}

pc_status pc_spmm_packed_info(const void* packed, size_t bytes, int64_t* n, int64_t* k, pc_type* type, const char** kernel) {
  pc::SparsePacked p{};
  PC_TRY(pc::sparse_open(packed, bytes, &p));
  if (n) *n = p.header->n;
  if (k) *k = p.header->k;
  if (type) *type = p.header->type;
  if (kernel) *kernel = p.kernel;
  return PC_OK;
}
}
