// The header in C++11, the oldest that is worth the while, with a body for pc_parallel as a lambda.
#include <pycompress.h>

#include <cstdio>
#include <vector>

int main() {
  std::vector<float> range(8);
  const std::vector<float> x = {-1.0f, 0.5f, 4.0f};
  struct Context {
    const std::vector<float>* x;
    std::vector<float>* range;
  } context = {&x, &range};
  const pc_status status = pc_parallel(
      [](void* c, int32_t ith, int32_t nth) -> pc_status {
        const Context* own = static_cast<const Context*>(c);
        return pc_range_run(own->x->data(), static_cast<int64_t>(own->x->size()), own->range->data(), ith, nth);
      },
      &context, 4);
  float scale = 0;
  int32_t zero_point = 0;
  if (status != PC_OK || pc_dynamic_qparams(range.data(), 4, &scale, &zero_point) != PC_OK) {
    std::printf("%s\n", pc_last_error());
    return 1;
  }
  std::printf("scale %g, zero point %d\n", static_cast<double>(scale), zero_point);
  return zero_point == 51 ? 0 : 1;
}
