/* A test harness for C programs that know nothing of ponder but ponder.h.
 *
 * A program lists its cases with RUN in main; each prints one line, ok or not ok with the failed
 * check above it. With arguments only the cases named run. CHECKs count and go on, REQUIREs leave
 * the case. A case whose data is missing says SKIP; a program of which all cases skip exits with
 * 77, which CTest counts as skipped. One thread runs the cases; checks may be made from any thread.
 */
#ifndef PONDER_TESTS_CAPI_HARNESS_H_
#define PONDER_TESTS_CAPI_HARNESS_H_

#include <ponder/ponder.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define MAYBE_UNUSED __attribute__((unused))
#else
#define MAYBE_UNUSED
#endif

/* Tests ask for more memory than there is; AddressSanitizer would end the program over it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }

static int harness_failed_checks; /* in the case that runs; threads set it too, benignly late */
static int harness_failed_cases;
static int harness_run_cases;
static int harness_skipped_cases;
static int harness_skip;
static int harness_argc;
static char **harness_argv;

static void harness_fail(const char *file, int line, const char *what) {
  printf("# %s:%d: %s\n", file, line, what);
  __atomic_add_fetch(&harness_failed_checks, 1, __ATOMIC_SEQ_CST);
}

#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) harness_fail(__FILE__, __LINE__, #condition); \
  } while (0)

#define REQUIRE(condition)                          \
  do {                                              \
    if (!(condition)) {                             \
      harness_fail(__FILE__, __LINE__, #condition); \
      return;                                       \
    }                                               \
  } while (0)

#define SKIP(why)                   \
  do {                              \
    printf("# skipped: %s\n", why); \
    harness_skip = 1;               \
    return;                         \
  } while (0)

/* The status is as expected; says which one it was. */
static MAYBE_UNUSED void harness_status(const char *file, int line, const char *what,
                                        ponder_status got, ponder_status expected) {
  char text[512];
  if (got == expected) return;
  snprintf(text, sizeof text, "%s is %s, not %s", what, ponder_status_name(got),
           ponder_status_name(expected));
  harness_fail(file, line, text);
}
#define CHECK_STATUS(expression, expected) \
  harness_status(__FILE__, __LINE__, #expression, (expression), (expected))
#define CHECK_OK(expression) CHECK_STATUS(expression, PONDER_OK)
#define CHECK_INVALID(expression) CHECK_STATUS(expression, PONDER_ERR_INVALID_ARGUMENT)

/* OK, else the case ends; prints the words of `err` and gives them back. */
static MAYBE_UNUSED int harness_ok(const char *file, int line, const char *what, ponder_status got,
                                   ponder_error *err) {
  ponder_str words;
  if (got == PONDER_OK) return 1;
  ponder_error_get(err, NULL, &words);
  printf("# %.*s\n", (int)words.size, words.data);
  ponder_error_destroy(err);
  harness_status(file, line, what, got, PONDER_OK);
  return 0;
}
#define REQUIRE_OK(expression, err)                                               \
  do {                                                                            \
    ponder_status harness_got = (expression);                                     \
    if (!harness_ok(__FILE__, __LINE__, #expression, harness_got, (err))) return; \
  } while (0)

static void harness_run(const char *name, void (*body)(void)) {
  int i, wanted = harness_argc < 2;
  for (i = 1; i < harness_argc; ++i) wanted |= strcmp(harness_argv[i], name) == 0;
  if (!wanted) return;
  harness_failed_checks = 0;
  harness_skip = 0;
  body();
  ++harness_run_cases;
  if (harness_failed_checks != 0) {
    ++harness_failed_cases;
    printf("not ok - %s\n", name);
  } else if (harness_skip) {
    ++harness_skipped_cases;
    printf("ok - %s # SKIP\n", name);
  } else {
    printf("ok - %s\n", name);
  }
  fflush(stdout);
}
#define RUN(name) harness_run(#name, name)

static void harness_begin(int argc, char **argv) {
  harness_argc = argc;
  harness_argv = argv;
}

static int harness_end(void) {
  if (harness_run_cases == 0) {
    printf("not ok - no such case\n");
    return 1;
  }
  printf("1..%d\n", harness_run_cases);
  if (harness_failed_cases != 0) {
    printf("# %d of %d failed\n", harness_failed_cases, harness_run_cases);
    return 1;
  }
  return harness_skipped_cases == harness_run_cases ? 77 : 0;
}

#endif /* PONDER_TESTS_CAPI_HARNESS_H_ */
