// The driver of the float32 GEMM.
//
// A few rows of x by a plain weight whose rows are contiguous: gemm_f32_few reads the weight where it lies. Everything else goes by panels. A block
// of rows of x, and of k, stays in L2 while all panels of w pass by, in pieces of k that stay in L1 or L2 for all tiles of the block; sums wait in y.
// A weight that is not packed is packed on the way: piece by piece where one block holds all rows (each is used once), else a chunk of panels at a
// time.
#include <algorithm>
#include <cstring>

#include "core/dispatch.h"
#include "core/partition.h"
#include "gemm/f32_packed.h"
#include "gemm/gemm.h"
#include "gemm/last_step.h"
#include "quant/quant.h"

namespace pc {
namespace {

constexpr char kMagicF32[8] = {'P', 'C', 'g', 'e', 'm', 'm', 'f', '4'};
constexpr char kMagicF16[8] = {'P', 'C', 'g', 'e', 'm', 'm', 'f', '2'};
constexpr int64_t kRowsInBlock = 264;
constexpr int64_t kBlockFloats = 132 * 1024;  // of x: they share L2 with what of w is in use
constexpr int64_t kPieceFloats = 16 * 1024;   // of a panel, in a piece of k: in L2 for all tiles of a block
constexpr int64_t kChunkPanels = 48;

pc_status packed_bytes(int64_t n, int64_t k, const GemmF32Kernel& kernel, size_t* bytes) {
  const int nr = kernel.nr;
  PC_CHECK(n >= 0 && k >= 0, PC_ERROR_SHAPE, "the weight is [%lld, %lld], wanted sizes >= 0", ll(n), ll(k));
  size_t values;
  PC_CHECK(n <= INT64_MAX - nr && multiply(static_cast<size_t>(round_up(n, static_cast<int64_t>(nr))), static_cast<size_t>(k), &values) &&
               values <= (static_cast<size_t>(PTRDIFF_MAX) - sizeof(F32Header) - kAlignment) / kernel.value_size,
           PC_ERROR_OVERFLOW, "the weight [%lld, %lld] is larger than memory", ll(n), ll(k));
  *bytes = round_up(sizeof(F32Header) + values * kernel.value_size, kAlignment);
  return PC_OK;
}

bool is_few(const pc_gemm_f32_desc& d, bool packed) { return !packed && d.ldk == 1 && d.m >= 1 && d.m <= kFewRows; }

struct Workspace {
  int64_t row_stride, rows, block_k;  // of x: floats from row to row; rows and values of k at a time
  bool wide;                          // tiles of several panels
  int64_t step, piece;                // of w: outputs and values of k at a time
  bool chunk;                         // a plain w is packed some panels at a time, for several blocks of rows; else each panel is used once
  int64_t panels;                     // packed at a time; 0 where w is read as it is
  size_t w, bytes;                    // offset, and the whole
};

Workspace workspace_of(const pc_gemm_f32_desc& d, const GemmF32Kernel& kernel, bool packed) {
  Workspace s{};
  const bool few = is_few(d, packed);
  const int64_t m = d.m, piece = kPieceFloats / kernel.nr;
  s.rows = std::max<int64_t>(1, std::min(m, kRowsInBlock / kernel.mr * kernel.mr));
  s.block_k = std::max<int64_t>(1, few ? d.k : std::min(d.k, std::max<int64_t>(1, kBlockFloats / s.rows / piece) * piece));
  // An odd number of cache lines, so that the rows of a tile lie in different sets of L1.
  s.row_stride = (divide_up(s.block_k, int64_t{16}) | 1) * 16;
  s.wide = m >= 1 && m <= kernel.mr && kernel.wide[m - 1];
  const int side_by_side = s.wide ? kernel.panels[m - 1] : 1;
  s.step = side_by_side * kernel.nr;
  s.piece = packed && s.wide ? s.block_k : packed ? piece : piece / side_by_side;
  s.chunk = !packed && !few && m > s.rows;
  if (!packed && !few) s.panels = s.chunk ? std::clamp<int64_t>(d.n / kernel.nr + (d.n % kernel.nr != 0), 1, kChunkPanels) : side_by_side;
  s.w = round_up(static_cast<size_t>(s.rows * s.row_stride) * sizeof(float), kAlignment);
  s.bytes =
      s.w + round_up(static_cast<size_t>(s.panels * kernel.nr * std::min(s.block_k, s.chunk ? s.block_k : s.piece)) * sizeof(float), kAlignment);
  return s;
}

struct Call {
  pc_gemm_f32_desc d;
  const GemmF32Kernel* kernel;
  const GemmF32FewKernel* few;
  const ActivationKernel* activation;
  const char* w;  // plain, or the panels of a packed weight
  bool packed;
  const float* x;
  float* y;
  float low, high;
};

pc_status check_desc(const pc_gemm_f32_desc* desc, Call* call) {
  PC_CHECK(desc, PC_ERROR_NULL, "desc is NULL");
  PC_CHECK(desc->size == sizeof *desc, PC_ERROR_STRUCT, "desc->size is %zu, wanted %zu", desc->size, sizeof *desc);
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  call->kernel = kernels->gemm_f32;
  call->few = kernels->gemm_f32_few;
  call->activation = kernels->activation;
  pc_gemm_f32_desc& d = call->d;
  d = *desc;
  PC_CHECK(d.m >= 0 && d.n >= 0 && d.k >= 0, PC_ERROR_SHAPE, "m, n, k are %lld, %lld, %lld, wanted sizes >= 0", ll(d.m), ll(d.n), ll(d.k));
  PC_CHECK(d.k <= INT64_MAX >> 8, PC_ERROR_OVERFLOW, "k is %lld: no memory holds such a row", ll(d.k));  // so that sizes of rows don't overflow
  PC_TRY(check_rows(d.m));
  if (d.ldx == 0) d.ldx = d.k;
  if (d.ldy == 0) d.ldy = d.n;
  PC_CHECK(d.ldx >= d.k && d.ldy >= d.n, PC_ERROR_SHAPE, "ldx and ldy are %lld and %lld, wanted at least k = %lld and n = %lld", ll(d.ldx), ll(d.ldy),
           ll(d.k), ll(d.n));
  if (d.m <= 1) d.ldx = d.k, d.ldy = d.n;  // no second row: they lead nowhere
  if (d.ldn == 0 && d.ldk == 0) {
    d.ldn = d.k;
    d.ldk = 1;
  }
  PC_CHECK(d.ldn >= 0 && d.ldk >= 0, PC_ERROR_SHAPE, "ldn and ldk are %lld and %lld, wanted >= 0", ll(d.ldn), ll(d.ldk));
  return clamp_of(d, &call->low, &call->high);
}

pc_status open_weight(const void* w, size_t bytes, Call* call) {
  call->packed = bytes > 0;
  call->w = static_cast<const char*>(w);
  if (!call->packed) return PC_OK;
  PC_TRY(f32_open(w, bytes, call->d.n, call->d.k, &call->kernel));
  call->w += sizeof(F32Header);
  return PC_OK;
}

// Bytes that a plain weight spans: its rows are (k - 1) * ldk + 1 values long.
bool plain_bytes(const pc_gemm_f32_desc& d, size_t* bytes) {
  size_t row;
  return multiply(static_cast<size_t>(std::max<int64_t>(d.k - 1, 0)), static_cast<size_t>(d.ldk), &row) && row < PTRDIFF_MAX &&
         span_bytes(d.n, static_cast<int64_t>(row + 1), d.ldn, sizeof(float), bytes);
}

pc_status check_operands(const Call& call, const void* workspace, size_t workspace_bytes, size_t needed) {
  const pc_gemm_f32_desc& d = call.d;
  size_t x_bytes, y_bytes, w_bytes;
  PC_CHECK(span_bytes(d.m, d.k, d.ldx, 4, &x_bytes) && span_bytes(d.m, d.n, d.ldy, 4, &y_bytes), PC_ERROR_OVERFLOW,
           "x [%lld, %lld] or y [%lld, %lld] is larger than memory", ll(d.m), ll(d.k), ll(d.m), ll(d.n));
  if (call.packed)
    PC_TRY(packed_bytes(d.n, d.k, *call.kernel, &w_bytes));
  else
    PC_CHECK(plain_bytes(d, &w_bytes), PC_ERROR_OVERFLOW, "w [%lld, %lld] is larger than memory", ll(d.n), ll(d.k));
  if (d.k == 0 && !call.packed) w_bytes = 0;
  PC_CHECK((call.x || !x_bytes) && (call.y || !y_bytes) && (call.w || !w_bytes), PC_ERROR_NULL, "x, y or w is NULL");
  PC_CHECK(is_aligned(call.x, 4) && is_aligned(call.y, 4) && is_aligned(call.w, 4) && is_aligned(d.bias, 4), PC_ERROR_ALIGNMENT,
           "x, y, w or bias is not aligned to float");
  const char* w = call.packed ? call.w - sizeof(F32Header) : call.w;  // w_bytes counts the header
  return check_memory({call.y, y_bytes}, {{"x", {call.x, x_bytes}}, {"w", {w, w_bytes}}, {"bias", optional_span(d.bias, d.n)}}, workspace,
                      workspace_bytes, needed);
}

class Part {
 public:
  Part(const Call& call, const Workspace& layout, char* workspace)
      : c_(call),
        d_(call.d),
        kernel_(*call.kernel),
        layout_(layout),
        rows_(reinterpret_cast<float*>(workspace)),
        panels_(reinterpret_cast<float*>(workspace + layout.w)) {}

  void run(const Block& block) {
    const int64_t chunk = layout_.chunk ? layout_.panels * kernel_.nr : std::max<int64_t>(1, block.n.end - block.n.begin);
    // k = 0 still has a last step to do.
    for (int64_t k0 = 0; k0 == 0 || k0 < d_.k; k0 += layout_.block_k) {
      const int64_t k = std::min(layout_.block_k, d_.k - k0);
      int64_t rows_at = -1;  // the block of rows that is packed
      for (int64_t n0 = block.n.begin; n0 < block.n.end; n0 += chunk) {
        const int64_t n_end = std::min(n0 + chunk, block.n.end);
        if (layout_.chunk) pack_panels(n0, n_end, k0, k);
        for (int64_t m0 = block.m.begin; m0 < block.m.end; m0 += layout_.rows) {
          const int64_t rows = std::min(layout_.rows, block.m.end - m0);
          if (rows_at != m0) pack_rows(m0, rows, k0, k);
          rows_at = m0;
          for (int64_t n = n0; n < n_end; n += layout_.step) run_panels(m0, rows, n0, n, std::min(n + layout_.step, n_end), k0, k);
        }
      }
    }
  }

 private:
  void pack_rows(int64_t m0, int64_t rows, int64_t k0, int64_t k) {
    for (int64_t r = 0; r < rows; ++r)
      if (k > 0) std::memcpy(rows_ + r * layout_.row_stride, c_.x + (m0 + r) * d_.ldx + k0, static_cast<size_t>(k) * sizeof(float));
  }

  const char* plain(int64_t n, int64_t k0) const { return c_.w + (n * d_.ldn + k0 * d_.ldk) * static_cast<int64_t>(sizeof(float)); }

  void pack_panels(int64_t n0, int64_t n_end, int64_t k0, int64_t k) {
    for (int64_t n = n0; n < n_end; n += kernel_.nr)
      kernel_.pack_panel(plain(n, k0), d_.ldn, d_.ldk, static_cast<int>(std::min<int64_t>(kernel_.nr, n_end - n)), k, panels_ + (n - n0) * k);
  }

  // Outputs [n, n_end), one panel or a few side by side, of a block of rows and of k, piece by piece. n0 is where the chunk begins.
  void run_panels(int64_t m0, int64_t rows, int64_t n0, int64_t n, int64_t n_end, int64_t k0, int64_t k) {
    alignas(kAlignment) float bias[kMaxPanels * kMaxNr];
    F32Tile t;
    t.columns = static_cast<int>(n_end - n);
    t.ldx = layout_.row_stride;
    t.low = c_.low;
    t.high = c_.high;
    t.ldy = d_.ldy;
    t.bias = nullptr;
    if (d_.bias && k0 + k == d_.k) {
      t.bias = d_.bias + n;
      if (t.columns < layout_.step) {
        std::memset(bias, 0, sizeof bias);
        std::memcpy(bias, t.bias, static_cast<size_t>(t.columns) * sizeof(float));
        t.bias = bias;
      }
    }
    for (int64_t j = 0; j == 0 || j < k; j += layout_.piece) {
      t.k = std::min(layout_.piece, k - j);
      t.first = k0 + j == 0;
      t.last = k0 + j + t.k == d_.k;
      if (c_.packed) {
        t.w = c_.w + static_cast<size_t>(n * d_.k + (k0 + j) * kernel_.nr) * kernel_.value_size;
        t.panel_stride = d_.k * kernel_.nr;
      } else if (layout_.chunk) {
        t.w = panels_ + (n - n0) * k + j * kernel_.nr;
        t.panel_stride = 0;
      } else {
        pack_panels(n, n_end, k0 + j, t.k);
        t.w = panels_;
        t.panel_stride = t.k * kernel_.nr;
      }
      run_tiles(&t, m0, rows, n, j);
    }
  }

  // The sums that the next tile takes up again: it can't begin without them, and no hardware foresees rows that far apart.
  void prefetch_sums(const float* y) const {
    for (int64_t i = 0; i < kernel_.mr; ++i)
      for (int64_t j = 0; j < kernel_.nr; j += 16) prefetch_line(y + i * d_.ldy + j);
  }

  void run_tiles(F32Tile* t, int64_t m0, int64_t rows, int64_t n, int64_t j) {
    const F32TileFunction* tiles = layout_.wide ? kernel_.wide : kernel_.tile;
    for_tiles(rows, kernel_.mr, [&](int64_t r, int count) {
      t->x = rows_ + r * layout_.row_stride + j;
      t->y = c_.y + (m0 + r) * d_.ldy + n;
      if (!t->first) prefetch_sums(r + count < rows ? t->y + count * d_.ldy : c_.y + m0 * d_.ldy + n + layout_.step);
      tiles[count - 1](*t);
      if (t->last && is_curve(d_.activation)) c_.activation->in_place(d_.activation, t->y, count, t->columns, d_.ldy);
    });
  }

  const Call& c_;
  const pc_gemm_f32_desc& d_;
  const GemmF32Kernel& kernel_;
  const Workspace& layout_;
  float* rows_;
  float* panels_;
};

// Parts are cut along n alone: each reads its own rows of w.
void run_few(const Call& call, const Range& n, int64_t row_stride, float* rows) {
  const pc_gemm_f32_desc& d = call.d;
  for (int64_t r = 0; d.k > 0 && r < d.m; ++r) std::memcpy(rows + r * row_stride, call.x + r * d.ldx, static_cast<size_t>(d.k) * sizeof(float));
  F32Few t{};
  t.x = rows;
  t.ldx = row_stride;
  t.ldn = d.ldn;
  t.k = d.k;
  t.low = call.low;
  t.high = call.high;
  t.ldy = d.ldy;
  for (int64_t n0 = n.begin; n0 < n.end; n0 += call.few->nr) {
    t.columns = static_cast<int>(std::min<int64_t>(call.few->nr, n.end - n0));
    t.w = reinterpret_cast<const float*>(call.w) + n0 * d.ldn;
    t.bias = d.bias ? d.bias + n0 : nullptr;
    t.y = call.y + n0;
    call.few->rows[d.m - 1](t);
    if (is_curve(d.activation)) call.activation->in_place(d.activation, t.y, d.m, t.columns, d.ldy);
  }
}

pc_status pack(const GemmF32Kernel& kernel, const char (&magic)[8], const void* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk, void* packed,
               size_t bytes) {
  const size_t size = kernel.value_size;
  size_t wanted;
  PC_TRY(packed_bytes(n, k, kernel, &wanted));
  PC_CHECK(packed && (w || n == 0 || k == 0), PC_ERROR_NULL, "%s is NULL", packed ? "w" : "packed");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(is_aligned(w, size), PC_ERROR_ALIGNMENT, "w is not aligned to its element type");
  PC_CHECK(bytes >= wanted, PC_ERROR_BUFFER, "packed has %zu bytes, wanted %zu", bytes, wanted);
  Span source;
  PC_CHECK(span_of(w, n, k, ldn, ldk, size, &source), PC_ERROR_OVERFLOW, "w [%lld, %lld] with strides %lld and %lld is larger than memory", ll(n),
           ll(k), ll(ldn), ll(ldk));
  if (n <= 1 || k == 0) ldn = k;  // there is no second row, or nothing in one: it leads nowhere
  if (k <= 1) ldk = 1;
  PC_CHECK(!overlap(packed, bytes, source.begin, source.bytes), PC_ERROR_OVERLAP, "packed overlaps w");
  F32Header header{};
  std::memcpy(header.magic, magic, sizeof magic);
  header.version = 1;
  header.nr = static_cast<uint32_t>(kernel.nr);
  header.n = n;
  header.k = k;
  header.bytes = wanted;
  char* base = static_cast<char*>(packed);
  std::memcpy(base, &header, sizeof header);
  char* panels = base + sizeof header;
  for (int64_t i = 0; i < n; i += kernel.nr)
    kernel.pack_panel(static_cast<const char*>(w) + i * ldn * static_cast<int64_t>(size), ldn, ldk,
                      static_cast<int>(std::min<int64_t>(kernel.nr, n - i)), k, panels + static_cast<size_t>(i * k) * size);
  const size_t end = sizeof header + static_cast<size_t>(round_up(n, static_cast<int64_t>(kernel.nr)) * k) * size;
  std::memset(base + end, 0, bytes - end);
  return PC_OK;
}

pc_status pack_size(const GemmF32Kernel* Kernels::* slot, int64_t n, int64_t k, size_t* bytes) {
  PC_CHECK(bytes, PC_ERROR_NULL, "bytes is NULL");
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  return packed_bytes(n, k, *(kernels->*slot), bytes);
}

}  // namespace

pc_status f32_open(const void* packed, size_t bytes, int64_t n, int64_t k, const GemmF32Kernel** kernel) {
  PC_CHECK(packed, PC_ERROR_NULL, "packed w is NULL");
  PC_CHECK(is_aligned(packed, kAlignment), PC_ERROR_ALIGNMENT, "packed w is not aligned to %d bytes", PC_ALIGNMENT);
  PC_CHECK(bytes >= sizeof(F32Header), PC_ERROR_BUFFER, "packed w has %zu bytes, a header alone has %zu", bytes, sizeof(F32Header));
  const F32Header* h = static_cast<const F32Header*>(packed);
  const bool f16 = std::memcmp(h->magic, kMagicF16, sizeof kMagicF16) == 0;
  PC_CHECK((f16 || std::memcmp(h->magic, kMagicF32, sizeof kMagicF32) == 0) && h->version == 1, PC_ERROR_FORMAT,
           "packed w does not begin as a weight of gemm_f32 or gemm_f16 does");
  PC_CHECK(h->n == n && h->k == k, PC_ERROR_SHAPE, "packed w is [%lld, %lld], wanted [%lld, %lld]", ll(h->n), ll(h->k), ll(n), ll(k));
  const auto use = [&](const Kernels& kernels) {
    *kernel = f16 ? kernels.gemm_f16 : kernels.gemm_f32;
    return (*kernel)->nr == static_cast<int>(h->nr);
  };
  const Kernels* kernels;
  PC_TRY(active_kernels(&kernels));
  bool found = use(*kernels);
  for (int32_t i = pc_isa_count(); !found && i-- > 0;)
    if (kernels_of(i)) found = use(*kernels_of(i));
  PC_CHECK(found, PC_ERROR_ISA, "packed w was made for another kind of CPU: panels of %u; pack it here", h->nr);
  size_t wanted;
  PC_TRY(packed_bytes(n, k, **kernel, &wanted));
  PC_CHECK(h->bytes == wanted && bytes >= wanted, h->bytes == wanted ? PC_ERROR_BUFFER : PC_ERROR_FORMAT, "packed w has %zu bytes, wanted %zu", bytes,
           wanted);
  return PC_OK;
}
}  // namespace pc

extern "C" {

pc_status pc_gemm_f32_pack_size(int64_t n, int64_t k, size_t* bytes) { return pc::pack_size(&pc::Kernels::gemm_f32, n, k, bytes); }

pc_status pc_gemm_f16_pack_size(int64_t n, int64_t k, size_t* bytes) { return pc::pack_size(&pc::Kernels::gemm_f16, n, k, bytes); }

pc_status pc_gemm_f32_pack(const float* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk, void* packed, size_t bytes) {
  const pc::Kernels* kernels;
  PC_TRY(pc::active_kernels(&kernels));
  return pc::pack(*kernels->gemm_f32, pc::kMagicF32, w, n, k, ldn, ldk, packed, bytes);
}

pc_status pc_gemm_f16_pack(const uint16_t* w, int64_t n, int64_t k, int64_t ldn, int64_t ldk, void* packed, size_t bytes) {
  const pc::Kernels* kernels;
  PC_TRY(pc::active_kernels(&kernels));
  return pc::pack(*kernels->gemm_f16, pc::kMagicF16, w, n, k, ldn, ldk, packed, bytes);
}

pc_status pc_gemm_f32_workspace_size(const pc_gemm_f32_desc* desc, int32_t nth, size_t* workspace_bytes) {
  using namespace pc;
  PC_CHECK(workspace_bytes, PC_ERROR_NULL, "workspace_bytes is NULL");
  PC_TRY(check_part(0, nth));
  Call call{};
  PC_TRY(check_desc(desc, &call));
  // Whether w will be packed, and for which instruction set, is not known yet.
  size_t part = workspace_of(call.d, *call.kernel, false).bytes;
  for (int32_t i = 0; i < pc_isa_count(); ++i)
    if (const Kernels* kernels = kernels_of(i))
      for (const GemmF32Kernel* kernel : {kernels->gemm_f32, kernels->gemm_f16}) part = std::max(part, workspace_of(call.d, *kernel, true).bytes);
  return workspace_of_parts(part, nth, workspace_bytes);
}

pc_status pc_gemm_f32_run(const pc_gemm_f32_desc* desc, const void* w, size_t bytes, const float* x, float* y, void* workspace,
                          size_t workspace_bytes, int32_t ith, int32_t nth) {
  using namespace pc;
  PC_TRY(check_part(ith, nth));
  Call call{};
  PC_TRY(check_desc(desc, &call));
  PC_TRY(open_weight(w, bytes, &call));
  call.x = x;
  call.y = y;
  const Workspace layout = workspace_of(call.d, *call.kernel, call.packed);
  size_t needed = 0;
  PC_TRY(workspace_of_parts(layout.bytes, nth, &needed));
  PC_TRY(check_operands(call, workspace, workspace_bytes, needed));
  char* mine = static_cast<char*>(workspace) + static_cast<size_t>(ith) * layout.bytes;
  if (call.d.n == 0) return PC_OK;  // however many rows
  if (is_few(call.d, call.packed)) {
    set_last_kernel(call.few->name);
    run_few(call, part_of(call.d.n, call.few->nr, ith, nth), layout.row_stride, reinterpret_cast<float*>(mine));
    return PC_OK;
  }
  set_last_kernel(call.kernel->name);
  Part(call, layout, mine).run(block_of(call.d.m, call.d.n, call.kernel->mr, call.kernel->nr, ith, nth));
  return PC_OK;
}
}
