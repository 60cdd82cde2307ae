/* The header in strict C99, and one multiplication through it. */
#include <pycompress.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
  static const int8_t w[2 * 3] = {1, 2, 3, -4, 5, -6};
  static const uint8_t x[3] = {10, 20, 30};
  int32_t y[2] = {0, 0};
  pc_gemm_s8_desc desc = {0};
  size_t packed_bytes = 0, workspace_bytes = 0;
  char *memory, *aligned;
  int ok;

  if (strcmp(pc_version(), "0.1.0") != 0 || pc_gemm_s8_pack_size(2, 3, &packed_bytes) != PC_OK) return 1;
  memory = malloc(packed_bytes + (1u << 20) + PC_ALIGNMENT);
  if (!memory) return 1;
  aligned = memory + (PC_ALIGNMENT - (uintptr_t)memory % PC_ALIGNMENT) % PC_ALIGNMENT;

  desc.size = sizeof desc;
  desc.m = 1;
  desc.n = 2;
  desc.k = 3;
  desc.x_type = PC_U8;
  desc.y_type = PC_S32;
  ok = pc_gemm_s8_pack(w, PC_S8, 2, 3, 3, 1, NULL, aligned, packed_bytes) == PC_OK &&
       pc_gemm_s8_workspace_size(&desc, aligned, packed_bytes, 1, &workspace_bytes) == PC_OK && workspace_bytes <= (1u << 20) &&
       pc_gemm_s8_run(&desc, aligned, packed_bytes, x, y, aligned + packed_bytes, workspace_bytes, 0, 1) == PC_OK;
  printf("%s: %d %d\n", ok ? pc_last_kernel() : pc_last_error(), (int)y[0], (int)y[1]);
  free(memory);
  return ok && y[0] == 140 && y[1] == -120 ? 0 : 1;
}
