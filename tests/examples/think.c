/* A model thinks and answers. Build: cc think.c -lponder
 * Run: ./a.out models/countdown "Use 3, 5 and 7 to make 22." */
#include <ponder/ponder.h>
#include <stdio.h>

static int fail(ponder_error *err) {
  ponder_str words;
  ponder_error_get(err, NULL, &words);
  fprintf(stderr, "%.*s\n", (int)words.size, words.data);
  ponder_error_destroy(err);
  return 1;
}

int main(int argc, char **argv) {
  ponder_runtime *runtime = NULL;
  ponder_model *model = NULL;
  ponder_session *session = NULL;
  ponder_chat *chat = NULL;
  ponder_request *request = NULL;
  ponder_generation *generation = NULL;
  ponder_error *err = NULL;
  ponder_event event;
  ponder_status status;

  if (argc < 3) return 2;
  if (ponder_runtime_create(NULL, &runtime, &err) < 0) return fail(err);
  if (ponder_model_load(runtime, argv[1], NULL, &model, &err) < 0) return fail(err);
  if (ponder_session_create(model, &session, &err) < 0) return fail(err);
  ponder_chat_create(&chat);
  ponder_chat_add(chat, PONDER_ROLE_USER, argv[2], PONDER_STRLEN);
  ponder_request_create(&request);
  ponder_request_set_chat(request, chat);
  ponder_request_set_thought_budget(request, 300, 400); /* think for 400 tokens at the most */
  if (ponder_session_submit(session, request, &generation, &err) < 0) return fail(err);

  do {
    status = ponder_generation_next(generation, &event, sizeof event, &err);
    if (status == PONDER_PENDING) ponder_generation_wait(generation, PONDER_FOREVER);
    if (status == PONDER_OK && event.kind == PONDER_EVENT_THOUGHT)
      printf("\033[2m%.*s\033[0m", (int)event.text.size, event.text.data);
    if (status == PONDER_OK && event.kind == PONDER_EVENT_THOUGHT_END) printf("\n\n");
    if (status == PONDER_OK && event.kind == PONDER_EVENT_ANSWER)
      printf("%.*s", (int)event.text.size, event.text.data);
  } while (status == PONDER_OK || status == PONDER_PENDING);
  if (status < 0) return fail(err);
  printf("\n");

  ponder_generation_destroy(generation); /* any order will do */
  ponder_request_destroy(request);
  ponder_chat_destroy(chat);
  ponder_session_destroy(session);
  ponder_model_release(model);
  ponder_runtime_release(runtime);
  return 0;
}
