/* Several turns. The history keeps thought and answer apart, so that the model's template may
 * decide what of it the model sees again (R1's drops earlier thoughts); the session computes only
 * what is new, whatever the template did. */
#include <ponder/ponder.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct text {
  char *data;
  size_t size;
} text;

static void append(text *t, ponder_str more) {
  char *grown = realloc(t->data, t->size + more.size + 1);
  if (grown == NULL) return;
  t->data = grown;
  if (more.size != 0) memcpy(t->data + t->size, more.data, more.size);
  t->size += more.size;
}

/* Asks, and adds question and reply to the chat. */
static ponder_status turn(ponder_session *session, ponder_chat *chat, const char *question,
                          ponder_error **err) {
  ponder_request *request = NULL;
  ponder_generation *generation = NULL;
  ponder_event event;
  text thought = {NULL, 0}, answer = {NULL, 0};
  ponder_status status = ponder_chat_add(chat, PONDER_ROLE_USER, question, PONDER_STRLEN);
  if (status == PONDER_OK) status = ponder_request_create(&request);
  if (status == PONDER_OK) status = ponder_request_set_chat(request, chat);
  if (status == PONDER_OK) status = ponder_session_submit(session, request, &generation, err);
  while (status >= 0 && status != PONDER_DONE) {
    status = ponder_generation_next(generation, &event, sizeof event, err);
    if (status == PONDER_PENDING) ponder_generation_wait(generation, PONDER_FOREVER);
    if (status != PONDER_OK) continue;
    if (event.kind == PONDER_EVENT_STARTED)
      printf("(%u tokens of prompt, %u of them known)\n", event.prompt_tokens, event.cached_tokens);
    if (event.kind == PONDER_EVENT_THOUGHT) append(&thought, event.text);
    if (event.kind == PONDER_EVENT_ANSWER) append(&answer, event.text);
  }
  if (status == PONDER_DONE)
    status = ponder_chat_add_assistant(chat, thought.data, thought.size, answer.data, answer.size,
                                       NULL, 0, err);
  printf("> %s\n%.*s\n", question, (int)answer.size, answer.data != NULL ? answer.data : "");
  free(thought.data);
  free(answer.data);
  ponder_generation_destroy(generation);
  ponder_request_destroy(request);
  return status;
}

int main(int argc, char **argv) {
  ponder_runtime *runtime = NULL;
  ponder_model *model = NULL;
  ponder_session *session = NULL;
  ponder_chat *chat = NULL;
  ponder_error *err = NULL;
  ponder_status status;
  char *json;
  size_t size = 0;
  if (argc < 2) return 2;
  status = ponder_runtime_create(NULL, &runtime, &err);
  if (status == PONDER_OK) status = ponder_model_load(runtime, argv[1], NULL, &model, &err);
  if (status == PONDER_OK) status = ponder_session_create(model, &session, &err);
  if (status == PONDER_OK) status = ponder_chat_create(&chat);
  if (status == PONDER_OK) status = turn(session, chat, "Use 3, 5 and 7 to make 22.", &err);
  if (status == PONDER_OK) status = turn(session, chat, "Make 15 from 25, 1 and 9.", &err);
  if (status == PONDER_OK && ponder_chat_message_count(chat) != 4) status = PONDER_ERR_INTERNAL;

  /* The history as the JSON that other programs keep. */
  if (status == PONDER_OK) ponder_chat_get_json(chat, NULL, &size);
  json = malloc(size + 1);
  if (status == PONDER_OK && json != NULL && ponder_chat_get_json(chat, json, &size) == PONDER_OK)
    printf("%.*s\n", (int)size, json);
  free(json);

  if (status < 0) {
    ponder_str words;
    ponder_error_get(err, NULL, &words);
    fprintf(stderr, "%s: %.*s\n", ponder_status_name(status), (int)words.size, words.data);
  }
  ponder_error_destroy(err);
  ponder_chat_destroy(chat);
  ponder_session_destroy(session);
  ponder_model_release(model);
  ponder_runtime_release(runtime);
  return status < 0;
}
