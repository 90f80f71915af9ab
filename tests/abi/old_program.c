/* Compiled by abi_test.py against a ponder.h whose structs lack their last fields: a program of an
 * older release. It must work with today's library, and nothing beyond its structs may be written.
 */
#include <ponder/ponder.h>
#include <stdio.h>
#include <string.h>

#define GUARD 0x5A

typedef struct guarded_event {
  ponder_event event;
  unsigned char after[64];
} guarded_event;
typedef struct guarded_info {
  ponder_model_info info;
  unsigned char after[64];
} guarded_info;
typedef struct guarded_stats {
  ponder_stats stats;
  unsigned char after[64];
} guarded_stats;
typedef struct guarded_device {
  ponder_device_info device;
  unsigned char after[64];
} guarded_device;

static int intact(const unsigned char *after) {
  int i;
  for (i = 0; i < 64; ++i)
    if (after[i] != GUARD) return 0;
  return 1;
}
static int failed;
static void check(int good, const char *what) {
  if (!good) printf("not ok - %s\n", what), failed = 1;
}

int main(int argc, char **argv) {
  ponder_runtime *rt = NULL;
  ponder_model *m = NULL;
  ponder_session *s = NULL;
  ponder_request *r = NULL;
  ponder_generation *g = NULL;
  guarded_event e;
  guarded_info i;
  guarded_stats st;
  guarded_device d;
  ponder_status status;
  int answer = 0, finished = 0;
  if (argc < 2) return 2;
  memset(&e, GUARD, sizeof e), memset(&i, GUARD, sizeof i);
  memset(&st, GUARD, sizeof st), memset(&d, GUARD, sizeof d);
  check(ponder_runtime_create(NULL, &rt, NULL) == PONDER_OK, "runtime");
  check(ponder_runtime_get_device(rt, 0, &d.device, sizeof d.device) == PONDER_OK, "device");
  check(d.device.backend.size != 0 && intact(d.after), "device is filled as far as known");
  check(ponder_model_load(rt, argv[1], NULL, &m, NULL) == PONDER_OK, "model");
  check(ponder_model_get_info(m, &i.info, sizeof i.info) == PONDER_OK, "info");
  check(i.info.vocabulary == 320 && intact(i.after), "info is filled as far as known");
  check(ponder_session_create(m, &s, NULL) == PONDER_OK, "session");
  check(ponder_request_create(&r) == PONDER_OK, "request");
  check(ponder_request_set_text(r, "I need 22 from 3 5 7.\n", PONDER_STRLEN, 0) == PONDER_OK,
        "text");
  check(ponder_request_set_max_tokens(r, 20) == PONDER_OK, "max_tokens");
  check(ponder_session_submit(s, r, &g, NULL) == PONDER_OK, "submit");
  do {
    ponder_generation_wait(g, PONDER_FOREVER);
    while ((status = ponder_generation_next(g, &e.event, sizeof e.event, NULL)) == PONDER_OK) {
      answer += e.event.kind == PONDER_EVENT_ANSWER && e.event.text.size != 0;
      finished += e.event.kind == PONDER_EVENT_FINISHED && e.event.finish != 0;
      check(intact(e.after), "an event stays within its struct");
    }
  } while (status == PONDER_PENDING);
  check(status == PONDER_DONE && answer > 0 && finished == 1, "generation");
  check(ponder_generation_get_stats(g, &st.stats, sizeof st.stats) == PONDER_OK, "stats");
  check(st.stats.prompt_tokens > 0 && intact(st.after), "stats are filled as far as known");
  ponder_generation_destroy(g);
  ponder_request_destroy(r);
  ponder_session_destroy(s);
  ponder_model_release(m);
  ponder_runtime_release(rt);
  if (!failed) printf("ok - a program with smaller structs\n");
  return failed;
}
