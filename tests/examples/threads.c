/* A server's shape: one model, a thread per client, answers batched together by the library; and a
 * deadline kept from outside ("answer now"). */
#include <ponder/ponder.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { CLIENTS = 4 };

typedef struct client {
  ponder_model *model;
  const char *question;
  char answer[256];
  int failed;
} client;

static void *serve(void *arg) {
  client *c = arg;
  ponder_session *session = NULL;
  ponder_chat *chat = NULL;
  ponder_request *request = NULL;
  ponder_generation *generation = NULL;
  ponder_error *err = NULL;
  ponder_event event;
  ponder_status status = ponder_session_create(c->model, &session, &err);
  size_t length = 0;
  ponder_chat_create(&chat);
  ponder_chat_add(chat, PONDER_ROLE_USER, c->question, PONDER_STRLEN);
  ponder_request_create(&request);
  ponder_request_set_chat(request, chat);
  if (status == PONDER_OK) status = ponder_session_submit(session, request, &generation, &err);
  while (status >= 0 && status != PONDER_DONE) {
    status = ponder_generation_next(generation, &event, sizeof event, &err);
    if (status == PONDER_OK && event.kind == PONDER_EVENT_ANSWER &&
        length + event.text.size < sizeof c->answer) {
      memcpy(c->answer + length, event.text.data, event.text.size);
      length += event.text.size;
    }
    if (status != PONDER_PENDING) continue;
    /* No news for two seconds: enough thought. Any thread might say so. */
    if (ponder_generation_wait(generation, 2000000) == PONDER_PENDING)
      ponder_generation_close_thought(generation);
  }
  c->answer[length] = 0;
  c->failed = status < 0;
  ponder_error_destroy(err);
  ponder_generation_destroy(generation);
  ponder_request_destroy(request);
  ponder_chat_destroy(chat);
  ponder_session_destroy(session);
  return NULL;
}

int main(int argc, char **argv) {
  static const char *const questions[CLIENTS] = {
      "Make 15 from 25, 1 and 9.", "Using the numbers 7, 11 and 15, reach 33.",
      "Using the numbers 23, 5 and 16, reach 12.", "Use 3, 5 and 7 to make 22."};
  client clients[CLIENTS];
  pthread_t threads[CLIENTS];
  ponder_runtime *runtime = NULL;
  ponder_model *model = NULL;
  int i, failed = 0;
  if (argc < 2) return 2;
  if (ponder_runtime_create(NULL, &runtime, NULL) < 0) return 1;
  if (ponder_model_load(runtime, argv[1], NULL, &model, NULL) < 0) return 1;
  for (i = 0; i < CLIENTS; ++i) {
    clients[i].model = model;
    clients[i].question = questions[i];
    if (pthread_create(&threads[i], NULL, serve, &clients[i]) != 0) return 1;
  }
  for (i = 0; i < CLIENTS; ++i) {
    pthread_join(threads[i], NULL);
    failed += clients[i].failed;
    printf("%s %s\n", clients[i].question, clients[i].failed ? "(failed)" : clients[i].answer);
  }
  ponder_model_release(model);
  ponder_runtime_release(runtime);
  return failed != 0;
}
