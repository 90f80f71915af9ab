/* A customer's program: the installed header, the installed library, plain C. */
#include <ponder/ponder.h>
#include <stdio.h>

int main(void) {
  int32_t major = -1, minor = -1, patch = -1;
  ponder_version(&major, &minor, &patch);
  printf("%d.%d.%d\n", (int)major, (int)minor, (int)patch);
  return ponder_build_info() == NULL;
}
