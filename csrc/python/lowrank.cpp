// A weight that is a product, y = (x b^T) a^T: some rows of x go through both factors before the next rows begin, so that what is between them
// stays in L1 or L2. The factors are packed weights of any kinds.
#include <algorithm>
#include <memory>

#include "native.h"

namespace pc::python {

namespace {

constexpr size_t kMiddleBytes = 96 << 10;  // of the rows between the factors

struct LowRankPacked : Packed {
  py::object a_object, b_object;  // keep the factors alive
  const Packed &a, &b;
  float middle_scale;  // 0: not quantized, or row by row when a quantizes
  int32_t middle_zero_point;

  LowRankPacked(py::object a_, py::object b_, float scale, int32_t zero_point)
      : a_object(std::move(a_)),
        b_object(std::move(b_)),
        a(py::cast<const Packed&>(a_object)),
        b(py::cast<const Packed&>(b_object)),
        middle_scale(scale),
        middle_zero_point(zero_point) {
    n = a.n;
    k = b.k;
    for (const Packed* factor : {&a, &b}) stored.insert(stored.end(), factor->stored.begin(), factor->stored.end());
  }

  bool quantizes() const override { return b.quantizes(); }
  double threads_worth(int64_t m) const override { return a.threads_worth(m) + b.threads_worth(m); }

  // Both factors as calls on the same rows; the middle lies in `middle`, and where a result is quantized from float32, that in `wide`.
  struct Calls {
    LinearCall first, second;
    bool requantize;
  };
  Calls calls(const LinearCall& c, int64_t m, void* middle, void* wide) const {
    Calls r;
    LinearCall& first = r.first = c;
    first.m = m;
    first.y = middle;
    first.bias = nullptr;
    first.activation = PC_ACTIVATION_NONE;
    first.y_scale = 0;
    first.y_zero_point = 0;
    first.y_type = PC_F32;
    // Integers all through: the first factor's last step quantizes for the second.
    if (middle_scale > 0 && c.x_type != PC_F32) {
      first.y_type = PC_U8;
      first.y_scale = middle_scale;
      first.y_zero_point = middle_zero_point;
    }
    LinearCall& second = r.second = c;
    second.m = m;
    second.x = middle;
    second.x_type = first.y_type;
    second.x_scale = middle_scale;
    second.x_zero_point = middle_scale > 0 ? middle_zero_point : 0;
    r.requantize = c.y_type != PC_F32 && second.x_type == PC_F32;
    if (r.requantize) {
      second.y = wide;
      second.y_type = PC_F32;
      second.y_scale = 0;
      second.y_zero_point = 0;
    }
    return r;
  }

  // Of one part: the middle, a float32 result, and the larger of the factors' own workspaces.
  struct Layout {
    int64_t rows;
    size_t middle, wide, inner, total;
  };
  pc_status layout(const LinearCall& c, int64_t most, Layout* l) const {
    const size_t row = static_cast<size_t>(std::max<int64_t>(b.n, 1)) * sizeof(float);
    l->rows = std::clamp<int64_t>(static_cast<int64_t>(kMiddleBytes / row), 16, 256);
    l->rows = std::min(l->rows, std::max<int64_t>(most, 1));
    const Calls r = calls(c, l->rows, nullptr, nullptr);
    size_t first, second;
    pc_status status = b.workspace_size(r.first, 1, &first);
    if (status == PC_OK) status = a.workspace_size(r.second, 1, &second);
    if (status != PC_OK) return status;
    l->middle = round_up(static_cast<size_t>(l->rows) * row, kAlignment);
    l->wide = r.requantize ? round_up(static_cast<size_t>(l->rows) * static_cast<size_t>(n) * sizeof(float), kAlignment) : 0;
    l->inner = round_up(std::max(first, second), kAlignment);
    l->total = l->middle + l->wide + l->inner;
    return PC_OK;
  }

  pc_status workspace_size(const LinearCall& c, int32_t nth, size_t* bytes) const override {
    Layout l;
    const pc_status status = layout(c, divide_up<int64_t>(c.m, nth), &l);
    *bytes = status == PC_OK ? l.total * static_cast<size_t>(nth) : 0;
    return status;
  }

  // Parts are rows.
  pc_status run(const LinearCall& c, void* workspace, size_t, int32_t ith, int32_t nth) const override {
    const int64_t share = divide_up<int64_t>(c.m, nth);
    Layout l;
    pc_status status = layout(c, share, &l);
    char* middle = static_cast<char*>(workspace) + l.total * static_cast<size_t>(ith);
    char *wide = middle + l.middle, *inner = wide + l.wide;
    const int64_t end = std::min(c.m, share * (ith + 1));
    for (int64_t i = share * ith; i < end && status == PC_OK; i += l.rows) {
      const LinearCall part = c.rows(i, std::min(l.rows, end - i), n, k);
      const Calls r = calls(part, part.m, middle, wide);
      status = b.run(r.first, inner, l.inner, 0, 1);
      if (status == PC_OK) status = a.run(r.second, inner, l.inner, 0, 1);
      if (status == PC_OK && r.requantize) status = quantize(part, reinterpret_cast<const float*>(wide), 0, 1);
    }
    return status;
  }

  pc_status quantize(const LinearCall& c, const float* wide, int32_t ith, int32_t nth) const {
    pc_quant_desc d{};
    d.size = sizeof d;
    d.outer = d.channels = 1;
    d.inner = c.m * n;
    d.q_type = c.y_type;
    d.scale = &c.y_scale;
    d.zero_point = &c.y_zero_point;
    return pc_quantize_linear_run(&d, wide, c.y, ith, nth);
  }

  // With fewer rows than would keep the threads busy, each factor is shared out among them instead.
  void linear(const LinearCall& c) const override {
    const int32_t nth = threads_for(threads_worth(c.m), c.threads);
    if (nth == 1 || c.m >= 16 * nth) return Packed::linear(c);
    const size_t middle_bytes = round_up(static_cast<size_t>(c.m * b.n) * sizeof(float), kAlignment);
    AlignedMemory memory(middle_bytes + static_cast<size_t>(c.m * n) * sizeof(float));
    const auto* wide = reinterpret_cast<const float*>(static_cast<char*>(memory.get()) + middle_bytes);
    const Calls r = calls(c, c.m, memory.get(), const_cast<float*>(wide));
    b.linear(r.first);
    a.linear(r.second);
    if (r.requantize) check(quantize(c, wide, 0, 1));
  }
};

std::unique_ptr<LowRankPacked> pack_lowrank(py::object a, py::object b, const QParams& middle) {
  const auto [scale, zero_point] = middle.value_or(std::pair<float, int32_t>(0.0f, 0));
  return std::make_unique<LowRankPacked>(std::move(a), std::move(b), scale, zero_point);
}

}  // namespace

void bind_lowrank(py::module_& m) {
  py::class_<LowRankPacked, Packed>(m, "LowRankPacked", "A product of two packed weights.");
  m.def("pack_lowrank", &pack_lowrank, py::arg("a"), py::arg("b"), py::arg("mid_qparams"));
}

}  // namespace pc::python
