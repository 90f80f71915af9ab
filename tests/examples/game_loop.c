/* One frame at a time: several characters think, the frame never waits. Everything happens on the
 * game's own thread, inside ponder_runtime_poll, for as long as the frame has time. */
#include <ponder/ponder.h>
#include <stdio.h>

enum { CHARACTERS = 3, BUDGET_US = 2000 };

typedef struct character {
  const char *question;
  ponder_session *mind;
  ponder_generation *reply; /* NULL: has nothing to say */
  char said[256];
  size_t length;
  int thoughts;
} character;

static void hear(character *who, const ponder_event *event) {
  size_t i;
  if (event->kind == PONDER_EVENT_THOUGHT) ++who->thoughts; /* draw a cloud above the head */
  if (event->kind != PONDER_EVENT_ANSWER) return;
  for (i = 0; i < event->text.size && who->length + 1 < sizeof who->said; ++i)
    who->said[who->length++] = event->text.data[i];
}

/* The frame's share of thinking. Returns how many characters fell silent. */
static int frame(ponder_runtime *runtime) {
  ponder_generation *ready = NULL;
  int silent = 0;
  ponder_runtime_poll(runtime, BUDGET_US);
  while (ponder_runtime_next_ready(runtime, &ready) == PONDER_OK) {
    character *who = ponder_generation_get_user_data(ready);
    ponder_event event;
    ponder_status status;
    while ((status = ponder_generation_next(ready, &event, sizeof event, NULL)) == PONDER_OK)
      hear(who, &event);
    if (status == PONDER_PENDING) continue;
    ponder_generation_destroy(ready); /* done, or failed */
    who->reply = NULL;
    ++silent;
  }
  return silent;
}

int main(int argc, char **argv) {
  character cast[CHARACTERS] = {{"Make 15 from 25, 1 and 9.", NULL, NULL, "", 0, 0},
                                {"Using the numbers 7, 11 and 15, reach 33.", NULL, NULL, "", 0, 0},
                                {"Use 3, 5 and 7 to make 22.", NULL, NULL, "", 0, 0}};
  ponder_runtime_options *options = NULL;
  ponder_runtime *runtime = NULL;
  ponder_model *model = NULL;
  ponder_error *err = NULL;
  ponder_status status;
  int i, talking = 0, frames = 0;
  if (argc < 2) return 2;

  ponder_runtime_options_create(&options);
  ponder_runtime_options_set_drive(options, PONDER_DRIVE_HOST);
  ponder_runtime_options_set_threads(options, 1); /* the game needs the others */
  status = ponder_runtime_create(options, &runtime, &err);
  ponder_runtime_options_destroy(options);
  if (status == PONDER_OK) status = ponder_model_load(runtime, argv[1], NULL, &model, &err);

  for (i = 0; i < CHARACTERS && status == PONDER_OK; ++i) {
    ponder_chat *chat = NULL;
    ponder_request *request = NULL;
    ponder_chat_create(&chat);
    ponder_chat_add(chat, PONDER_ROLE_USER, cast[i].question, PONDER_STRLEN);
    ponder_request_create(&request);
    ponder_request_set_chat(request, chat);
    ponder_request_set_thought_budget(request, 256, 320);
    status = ponder_session_create(model, &cast[i].mind, &err);
    if (status == PONDER_OK)
      status = ponder_session_submit(cast[i].mind, request, &cast[i].reply, &err);
    ponder_generation_set_user_data(cast[i].reply, &cast[i]);
    ponder_request_destroy(request);
    ponder_chat_destroy(chat);
    talking += status == PONDER_OK;
  }

  for (; status == PONDER_OK && talking > 0; ++frames) talking -= frame(runtime); /* and draw */

  for (i = 0; i < CHARACTERS && status == PONDER_OK; ++i)
    printf("%s: %.*s (after %d thoughts)\n", cast[i].question, (int)cast[i].length, cast[i].said,
           cast[i].thoughts);
  printf("%d frames\n", frames);
  if (status < 0) {
    ponder_str words;
    ponder_error_get(err, NULL, &words);
    fprintf(stderr, "%.*s\n", (int)words.size, words.data);
  }
  ponder_error_destroy(err);
  for (i = 0; i < CHARACTERS; ++i) {
    ponder_generation_destroy(cast[i].reply);
    ponder_session_destroy(cast[i].mind);
  }
  ponder_model_release(model);
  ponder_runtime_release(runtime);
  return status < 0;
}
