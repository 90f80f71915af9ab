/* ponder.h - run reasoning language models inside your program.
 *
 * In a dozen calls: make a runtime, load a model, open a session, put messages into a chat and the
 * chat into a request, submit it, pull events until PONDER_DONE. docs/api/ has a page per subject
 * and tests/examples/ whole programs. What is not in this file is not part of the API.
 *
 * Four rules hold for every declaration below, so no comment repeats them.
 *
 * Ownership   A `T **out` argument hands the caller a new reference; give it back with that
 *             type's destroy or release. On failure *out is NULL. Everything else that comes out
 *             is borrowed, and the comment says until when. Inputs are copied before the call
 *             returns, except where a comment says "must outlive". Objects keep what they need
 *             alive: they may be given back in any order and from any thread, finalizers
 *             included. destroy and release accept NULL and ignore it.
 * Errors      ponder_status: 0 is success, positive is success with news, negative is failure.
 *             Any function may fail with INVALID_ARGUMENT (a NULL where none is allowed, a value
 *             its comment rules out), OUT_OF_MEMORY or INTERNAL; comments name the other codes.
 *             Where words help there is a trailing `ponder_error **err`; it may be NULL and is
 *             written only on failure. A failed call leaves its objects as they were. Nothing is
 *             thread-local, nothing aborts, nothing is printed.
 * Threads     Each function carries one class in PONDER_API(class):
 *               ANY     any thread, concurrently
 *               HANDLE  one thread at a time per object (the caller's lock, if any)
 *               SIGNAL  any thread, any time, never waits for work, allowed inside callbacks
 *             Callbacks run without a lock held. Inside one, only SIGNAL functions may be called;
 *             where the library can see another one coming it answers BUSY.
 * Data        Text is UTF-8. Inputs are (data, size) with the size in bytes; PONDER_STRLEN says
 *             "NUL-terminated". Names and paths are always NUL-terminated. Buffers for output
 *             come with an in/out size: in the room, out what is needed; BUFFER_TOO_SMALL when
 *             that is more, and then nothing else is written. With room 0 the buffer may be NULL.
 *             Structs go by pointer followed by the size the caller compiled with; they only ever
 *             grow at the end. Read from us: the part both sides know is filled, the rest of the
 *             caller's is zero. Given to us: a part we do not know must be zero, else UNSUPPORTED.
 *             Numbers of a group are never reused; int32_t flags are zero or nonzero.
 */
#ifndef PONDER_PONDER_H_
#define PONDER_PONDER_H_

#include <stddef.h>
#include <stdint.h>

#include "ponder/export.h"  /* PONDER_EXPORT */
#include "ponder/version.h" /* PONDER_VERSION_MAJOR and friends */

#define PONDER_API(thread_class) PONDER_EXPORT
#define PONDER_STRLEN ((size_t)-1)    /* as a size: the text is NUL-terminated */
#define PONDER_FOREVER ((uint64_t)-1) /* as a time: without limit */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- basics ---------------------------------------------------------------------------------- */

typedef int32_t ponder_status;
enum {
  PONDER_OK = 0,
  PONDER_PENDING = 1, /* nothing to hand out yet; ask again */
  PONDER_DONE = 2,    /* nothing more will ever come */

  PONDER_ERR_INVALID_ARGUMENT = -1,  /* the caller passed something that can never work */
  PONDER_ERR_NOT_FOUND = -2,         /* a file, tensor, hint or template is not there */
  PONDER_ERR_UNSUPPORTED = -3,       /* a known thing this build, device or model cannot do */
  PONDER_ERR_CORRUPT = -4,           /* malformed model, template or JSON */
  PONDER_ERR_MISMATCH = -5,          /* well-formed, but made for another model or version */
  PONDER_ERR_IO = -6,                /* reading failed; the error text says what */
  PONDER_ERR_OUT_OF_MEMORY = -7,     /* host or device; the error text says which, how much */
  PONDER_ERR_CONTEXT_FULL = -8,      /* the prompt leaves no room in the context or the KV cache */
  PONDER_ERR_BUSY = -9,              /* in use by an operation under way */
  PONDER_ERR_CANCELLED = -10,        /* the host asked to stop */
  PONDER_ERR_BUFFER_TOO_SMALL = -11, /* *size holds what is needed */
  PONDER_ERR_DEVICE = -12,           /* the device failed; its models are lost */
  PONDER_ERR_INTERNAL = -13          /* a defect of the library */
};

typedef int32_t ponder_token;

typedef struct ponder_str { /* borrowed text, not NUL-terminated; data may be NULL when empty */
  const char *data;
  size_t size;
} ponder_str;

typedef struct ponder_error ponder_error; /* a status with words; immutable */
typedef struct ponder_runtime_options ponder_runtime_options;
typedef struct ponder_runtime ponder_runtime; /* devices, threads, memory; counted */
typedef struct ponder_model_options ponder_model_options;
typedef struct ponder_model ponder_model;           /* immutable, shared, counted */
typedef struct ponder_chat ponder_chat;             /* a list of messages and tools */
typedef struct ponder_request ponder_request;       /* what to generate, and how */
typedef struct ponder_session ponder_session;       /* one timeline of tokens and their KV cache */
typedef struct ponder_generation ponder_generation; /* one request under way */

/* The version of the library, maybe newer than PONDER_VERSION_*. Each pointer may be NULL. */
PONDER_API(SIGNAL) void ponder_version(int32_t *major, int32_t *minor, int32_t *patch);

/* What was built, as a JSON object: "version", "abi", "compiler", "backends". NUL-terminated, lives
 * as long as the library is loaded. */
PONDER_API(SIGNAL) const char *ponder_build_info(void);

/* The constant's own name, "PONDER_ERR_IO", or "PONDER_UNKNOWN". NUL-terminated, lives as long as
 * the library is loaded. */
PONDER_API(SIGNAL) const char *ponder_status_name(ponder_status status);

/* Reads an error. Either pointer may be NULL; the message lives until the error is destroyed. It is
 * one line: the thing, the number and the remedy. err NULL: PONDER_OK and no text. */
PONDER_API(SIGNAL)
void ponder_error_get(const ponder_error *err, ponder_status *status, ponder_str *message);

/* Gives an error back. */
PONDER_API(ANY) void ponder_error_destroy(ponder_error *err);

/* ---- host services --------------------------------------------------------------------------- */
/* Every table is copied; each `user` and function must outlive the runtime (ponder_io: its model)
 * and everything made from it. All may be called from any thread, several at a time, and must not
 * throw, longjmp or call anything here but SIGNAL functions. */

/* Where large memory comes from: weights, KV cache, work areas. Small objects use malloc. alloc
 * returns NULL when there is none, which ends in OUT_OF_MEMORY; `align` is a power of two. free
 * gets back what alloc was asked for. Both are required. */
typedef struct ponder_allocator {
  void *user;
  void *(*alloc)(void *user, size_t size, size_t align);
  void (*free)(void *user, void *ptr, size_t size, size_t align);
} ponder_allocator;

/* The host's threads. parallel_for runs fn(arg, i) once for each i in [0, n), in any order, and
 * returns when all are done; fn returns normally and never calls parallel_for. concurrency, 1 to
 * 1024, is how many fn may run at once. All but user are required. */
typedef struct ponder_thread_pool {
  void *user;
  uint32_t concurrency;
  uint32_t reserved; /* 0 */
  void (*parallel_for)(void *user, uint32_t n, void (*fn)(void *arg, uint32_t i), void *arg);
} ponder_thread_pool;

/* A read-only folder that holds one model: names are those of the files in a model's folder,
 * "config.json", NUL-terminated and without any path. */
typedef struct ponder_io {
  void *user;
  /* The file's size in bytes; PONDER_ERR_NOT_FOUND when there is no such file. Required. */
  ponder_status (*size)(void *user, const char *name, uint64_t *size);
  /* Exactly n bytes from offset into dst, or a failure. Required. */
  ponder_status (*read)(void *user, const char *name, uint64_t offset, void *dst, size_t n);
  /* The whole file in memory, unchanging until close; NULL: not available, read is used. */
  const void *(*map)(void *user, const char *name); /* may be NULL */
  /* The last call made, exactly once, whatever ponder_model_load_io returned. */
  void (*close)(void *user); /* may be NULL */
} ponder_io;

enum { PONDER_LOG_DEBUG = 0, PONDER_LOG_INFO = 1, PONDER_LOG_WARNING = 2, PONDER_LOG_ERROR = 3 };

/* One line without a line end; text is borrowed for the call. */
typedef void (*ponder_log_fn)(void *user, int32_t level, const char *text, size_t size);
/* done of total bytes; nonzero stops. On the thread that loads. */
typedef int32_t (*ponder_progress_fn)(void *user, uint64_t done, uint64_t total);
/* "There is news": on any thread, also inside calls of the host's own; keep it short. */
typedef void (*ponder_wake_fn)(void *user);

/* ---- runtime and devices --------------------------------------------------------------------- */

enum {
  PONDER_DRIVE_THREAD = 0, /* the library runs a thread of its own */
  PONDER_DRIVE_HOST = 1    /* work happens only inside ponder_runtime_poll and calls that wait */
};

/* Options start with the defaults that each setter names. They are read by ponder_runtime_create
 * and may be destroyed after it. */
PONDER_API(ANY) ponder_status ponder_runtime_options_create(ponder_runtime_options **out);
PONDER_API(ANY) void ponder_runtime_options_destroy(ponder_runtime_options *o);

/* Default: no log, the library is silent. fn NULL: the default. min_level: PONDER_LOG_*. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_options_set_log(ponder_runtime_options *o, ponder_log_fn fn,
                                             void *user, int32_t min_level);

/* Default: the process's own memory. a NULL: the default. UNSUPPORTED: fields from the future. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_options_set_allocator(ponder_runtime_options *o,
                                                   const ponder_allocator *a, size_t a_size);

/* Default: threads of the library's own, see set_threads. p NULL: the default. UNSUPPORTED: fields
 * from the future. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_options_set_thread_pool(ponder_runtime_options *o,
                                                     const ponder_thread_pool *p, size_t p_size);

/* How many threads compute, the driving one included; 0, the default: one per physical core. At
 * most 1024. Without meaning when the host brings a pool. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_options_set_threads(ponder_runtime_options *o, uint32_t n);

/* PONDER_DRIVE_*; default PONDER_DRIVE_THREAD. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_options_set_drive(ponder_runtime_options *o, int32_t drive);

/* There is no process-wide state: two runtimes in one process do not see each other. o may be NULL
 * for the defaults. OUT_OF_MEMORY also when the system refuses a thread. */
PONDER_API(ANY)
ponder_status ponder_runtime_create(const ponder_runtime_options *o, ponder_runtime **out,
                                    ponder_error **err);

/* One more reference to rt, which is returned. NULL gives NULL. */
PONDER_API(ANY) ponder_runtime *ponder_runtime_retain(ponder_runtime *rt);

/* Gives one reference back. The runtime ends with its last reference and its last model. */
PONDER_API(ANY) void ponder_runtime_release(ponder_runtime *rt);

enum { PONDER_DEVICE_CPU = 1, PONDER_DEVICE_GPU = 2 };

typedef struct ponder_device_info {
  ponder_str backend;    /* "onednn", "cuda", "ref"; strings live as long as the runtime */
  ponder_str name;       /* "AMD EPYC 9454, 2 threads, avx512_bf16" */
  uint64_t memory_total; /* bytes; 0: not told */
  uint64_t memory_free;  /* bytes, when the runtime was made */
  int32_t kind;          /* PONDER_DEVICE_* */
  uint32_t index;        /* among the devices of its backend */
} ponder_device_info;

/* How many devices there are, at least 1; 0 for rt NULL. The first is the default one. */
PONDER_API(ANY) uint32_t ponder_runtime_device_count(const ponder_runtime *rt);

/* Describes device i. NOT_FOUND: i is not below the count. */
PONDER_API(ANY)
ponder_status ponder_runtime_get_device(const ponder_runtime *rt, uint32_t i,
                                        ponder_device_info *info, size_t info_size);

/* DRIVE_HOST: works for about budget_us microseconds on this thread, in slices no longer than one
 * layer of one step; 0 does one slice at most. OK: nothing left to do. PENDING: there is more.
 * BUSY: another thread is driving. UNSUPPORTED: the runtime has a thread of its own. A failure of
 * one generation is told by its next(), not here. */
PONDER_API(HANDLE) ponder_status ponder_runtime_poll(ponder_runtime *rt, uint64_t budget_us);

/* A generation that has news waiting which next_ready has not told yet, else PENDING and NULL.
 * Borrowed: yours since submit. Call ponder_generation_next until it gives no more. */
PONDER_API(HANDLE)
ponder_status ponder_runtime_next_ready(ponder_runtime *rt, ponder_generation **gen);

/* fn is called when next_ready or poll may have become worth calling; news from before is not told
 * again, so ask once after this. fn NULL: none. A call of the old fn that is under way on another
 * thread may still be running when this returns. */
PONDER_API(SIGNAL) void ponder_runtime_set_waker(ponder_runtime *rt, ponder_wake_fn fn, void *user);

/* ---- models ---------------------------------------------------------------------------------- */

/* Options start with the defaults that each setter names. They are read by load and may be
 * destroyed after it. */
PONDER_API(ANY) ponder_status ponder_model_options_create(ponder_model_options **out);
PONDER_API(ANY) void ponder_model_options_destroy(ponder_model_options *o);

/* Index as of ponder_runtime_get_device; default 0. load gives NOT_FOUND if there is none such. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_device(ponder_model_options *o, uint32_t device);

/* The longest sequence in tokens, prompt and generated; 0, the default: as many as the model was
 * trained for and memory for the KV cache allows. load gives UNSUPPORTED if it is more than the
 * model was trained for. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_context(ponder_model_options *o, uint32_t max_tokens);

/* Memory for the KV cache of all sessions together, in bytes; 0, the default: enough for a few
 * whole contexts, within what is free. load gives OUT_OF_MEMORY if it does not hold one context. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_kv_bytes(ponder_model_options *o, uint64_t bytes);

/* Memory for the routed experts of a mixture, in bytes; 0, the default: all of them stay. Others
 * are read from the files when they are chosen, so a model larger than memory runs, slower; files
 * or IO must serve reads as long as the model lives. load gives OUT_OF_MEMORY, and says what would
 * do, if it does not hold one expert. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_expert_bytes(ponder_model_options *o, uint64_t bytes);

/* How much of a GPU's memory the model may take: weights, KV cache and work area together, in bytes;
 * 0, the default: most of what is free. What does not fit stays on the processor: experts first,
 * then layers. load gives UNSUPPORTED on a device that is no GPU, OUT_OF_MEMORY if no layer fits. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_vram_bytes(ponder_model_options *o, uint64_t bytes);

/* Nonzero: load the checkpoint's layer for multi-token prediction too, which
 * PONDER_SPECULATION_MTP needs; default 0. It takes memory and time like one layer more. load gives
 * UNSUPPORTED if the checkpoint has none. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_draft_layer(ponder_model_options *o, int32_t on);

enum {
  PONDER_KV_AUTO = 0,
  PONDER_KV_F32 = 1,
  PONDER_KV_BF16 = 2,
  PONDER_KV_F16 = 3,
  PONDER_KV_Q8_0 = 4,   /* 8 bits, and 16 of scale per 32; not for latent attention */
  PONDER_KV_F8_E4M3 = 5 /* 8 bits, up to 448; GPUs only, not for latent attention */
};

/* The number type of the KV cache: PONDER_KV_*; default AUTO: what suits device and precision. load
 * gives UNSUPPORTED if the device cannot. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_kv_type(ponder_model_options *o, int32_t type);

enum {
  PONDER_PRECISION_AUTO = 0, /* what is fast on the device, e.g. bf16 inputs to bf16 weights */
  PONDER_PRECISION_F32 = 1,  /* float32 inputs, weights upcast: to compare with a reference */
  /* As AUTO, and inputs to FP8 weights are rounded to FP8 (E4M3, 128 to a scale), as DeepSeek's own
   * code does, where the device multiplies that as it is: NVIDIA GPUs of compute capability 8.9, 9.0
   * and 12.x. Everywhere else AUTO. */
  PONDER_PRECISION_FP8 = 2
};

/* PONDER_PRECISION_*; default AUTO. */
PONDER_API(HANDLE)
ponder_status ponder_model_options_set_precision(ponder_model_options *o, int32_t precision);

/* fn is told how far load is, a few hundred times at most; when it returns nonzero, load stops with
 * CANCELLED. Default: none. fn and user must outlive the load. */
PONDER_API(HANDLE)
ponder_status
    ponder_model_options_set_progress(ponder_model_options *o, ponder_progress_fn fn, void *user);

/* Tuning that is not API: names and values belong to one release, see docs/api/models.md. value
 * NULL takes the hint back. load gives NOT_FOUND for a name it does not know. */
PONDER_API(HANDLE)
ponder_status
    ponder_model_options_set_hint(ponder_model_options *o, const char *name, const char *value);

/* Loads a model from a folder in the Hugging Face layout. Blocks; call it from a worker thread. The
 * files are mapped and must not change while the model lives. o may be NULL. NOT_FOUND: no such
 * folder, or a file or tensor it should hold. IO, CORRUPT, UNSUPPORTED (an architecture or type
 * this build does not know), MISMATCH, CANCELLED, DEVICE. */
PONDER_API(ANY)
ponder_status ponder_model_load(ponder_runtime *rt, const char *path, const ponder_model_options *o,
                                ponder_model **out, ponder_error **err);

/* The same from the host's own files: an archive, a network, memory. A status that a callback
 * returns comes back unchanged if it is one of the errors above, else as IO. */
PONDER_API(ANY)
ponder_status
    ponder_model_load_io(ponder_runtime *rt, const ponder_io *io, size_t io_size,
                         const ponder_model_options *o, ponder_model **out, ponder_error **err);

enum {
  PONDER_FITS_NOT = 0,       /* more memory is needed than is free */
  PONDER_FITS_ON_DEMAND = 1, /* with set_expert_bytes(expert_budget): slower */
  PONDER_FITS_ALL = 2,       /* everything stays in memory */
  PONDER_FITS_PLACED = 3     /* on a GPU and the processor, as load would do */
};

typedef struct ponder_model_needs {
  uint64_t parameters;
  uint64_t weight_bytes;       /* of all tensors in the files; what is loaded of them: */
  uint64_t attention_bytes;
  uint64_t feed_forward_bytes; /* dense layers and shared experts */
  uint64_t expert_bytes;       /* routed experts; 0: the model is no mixture */
  uint64_t other_bytes;        /* embedding, output, routers, norms */
  uint64_t token_bytes;        /* of weights that computing one token reads */
  uint64_t kv_bytes, kv_bytes_per_1000, scratch_bytes; /* as load would set them aside */
  uint64_t memory_total, memory_free;                  /* of the device; 0: not told */
  uint64_t expert_budget;
  uint32_t layers, experts, experts_chosen; /* experts of a layer, and those a token goes to */
  uint32_t context, trained_context;
  int32_t fits; /* PONDER_FITS_* */
  uint32_t host_layers, host_expert_layers; /* on the processor: whole layers, experts of others */
  uint64_t vram_bytes;                      /* what the model may take of a GPU; 0: no GPU */
} ponder_model_needs;

/* What loading that model with those options would take, found without loading: the files' tables
 * are read and the shapes of tensors checked, no weight touched. Errors as ponder_model_load. */
PONDER_API(ANY)
ponder_status ponder_model_examine(ponder_runtime *rt, const char *path,
                                   const ponder_model_options *o, ponder_model_needs *needs,
                                   size_t needs_size, ponder_error **err);

/* One more reference to m, which is returned. NULL gives NULL. */
PONDER_API(ANY) ponder_model *ponder_model_retain(ponder_model *m);

/* Gives one reference back. The model ends with its last reference and its last session. */
PONDER_API(ANY) void ponder_model_release(ponder_model *m);

typedef struct ponder_model_info {
  ponder_str architecture; /* "Qwen2ForCausalLM"; strings and arrays live as long as the model */
  ponder_str name;         /* the folder's, or empty */
  ponder_str fingerprint;  /* 64 hexadecimal digits, equal for equal models however stored */
  ponder_str thought_open, thought_close; /* "<think>", "</think>"; empty where reasons is 0 */
  const ponder_token *eos_tokens;         /* each ends a generation */
  uint64_t parameters;
  uint64_t weight_bytes;      /* in memory or mapped */
  uint64_t kv_bytes;          /* set aside for the KV cache of all sessions */
  uint64_t kv_bytes_per_1000; /* what 1000 tokens take of it */
  uint32_t eos_count;
  uint32_t vocabulary;      /* tokens are 0 <= t < vocabulary */
  uint32_t context;         /* the longest sequence as loaded, in tokens */
  uint32_t trained_context; /* the longest the model was made for */
  uint32_t layers;
  uint32_t device;      /* as of ponder_runtime_get_device */
  int32_t kv_type;      /* PONDER_KV_*, as chosen */
  int32_t precision;    /* PONDER_PRECISION_*, as asked */
  int32_t reasons;      /* nonzero: the model has a thinking phase */
  int32_t has_template; /* nonzero: chats can be rendered */
  /* What a request does that says nothing else: the checkpoint's own recommendation. */
  uint32_t top_k; /* 0: off */
  float temperature, top_p, min_p, repeat_penalty;
  int32_t has_draft_layer; /* nonzero: loaded, see set_draft_layer */
} ponder_model_info;

/* Describes a model. */
PONDER_API(ANY)
ponder_status
    ponder_model_get_info(const ponder_model *m, ponder_model_info *info, size_t info_size);

/* The source text of the chat template (Jinja); lives as long as the model. NOT_FOUND: the model
 * has none. */
PONDER_API(ANY) ponder_status ponder_model_get_template(const ponder_model *m, ponder_str *source);

enum {
  PONDER_TOKENIZE_PLAIN = 0,      /* "<think>" in the text is seven ordinary characters */
  PONDER_TOKENIZE_SPECIAL = 1,    /* flag: "<think>" and friends become their tokens */
  PONDER_TOKENIZE_ADD_SPECIAL = 2 /* flag: add what the tokenizer adds to a text, such as BOS */
};

/* Text to tokens, exactly as the model's own tokenizer does. flags: PONDER_TOKENIZE_*, combined
 * with |. Text from strangers belongs in here without SPECIAL. count is in tokens.
 * BUFFER_TOO_SMALL. */
PONDER_API(ANY)
ponder_status ponder_model_tokenize(const ponder_model *m, const char *text, size_t size,
                                    int32_t flags, ponder_token *tokens, size_t *count);

/* Tokens to text, special tokens included; the bytes need not be whole code points if the tokens
 * are not. BUFFER_TOO_SMALL. INVALID_ARGUMENT also for a token outside the vocabulary. */
PONDER_API(ANY)
ponder_status ponder_model_detokenize(const ponder_model *m, const ponder_token *tokens,
                                      size_t count, char *text, size_t *size);

/* The bytes that one token stands for, or nothing for an unused one. NOT_FOUND: outside the
 * vocabulary. BUFFER_TOO_SMALL. */
PONDER_API(ANY)
ponder_status ponder_model_get_token_text(const ponder_model *m, ponder_token token, char *text,
                                          size_t *size);

/* ---- chat: messages and tools, rendered with the model's own template ------------------------ */

enum {
  PONDER_ROLE_SYSTEM = 1,
  PONDER_ROLE_USER = 2,
  PONDER_ROLE_ASSISTANT = 3,
  PONDER_ROLE_TOOL = 4
};

/* An empty chat; belongs to no model. */
PONDER_API(ANY) ponder_status ponder_chat_create(ponder_chat **out);
PONDER_API(ANY) void ponder_chat_destroy(ponder_chat *c);

/* Appends a message. role: PONDER_ROLE_*. Invalid UTF-8 is INVALID_ARGUMENT, here as below. */
PONDER_API(HANDLE)
ponder_status ponder_chat_add(ponder_chat *c, int32_t role, const char *text, size_t size);

/* Appends what the assistant said, its parts apart: the model's template decides which of them it
 * shows the model again. thought and tool_calls may be NULL; tool_calls is a JSON array in the form
 * [{"id":..,"type":"function","function":{"name":..,"arguments":..}}]. CORRUPT: it is not. */
PONDER_API(HANDLE)
ponder_status
    ponder_chat_add_assistant(ponder_chat *c, const char *thought, size_t thought_size,
                              const char *answer, size_t answer_size, const char *tool_calls,
                              size_t tool_calls_size, ponder_error **err);

/* Appends a tool's result. call_id, NUL-terminated, is that of the call answered, or NULL. */
PONDER_API(HANDLE)
ponder_status
    ponder_chat_add_tool_result(ponder_chat *c, const char *call_id, const char *text, size_t size);

/* Appends messages in the form of OpenAI's chat API: one message object, an array of them, or
 * {"messages":[..],"tools":[..],"add_generation_prompt":bool, ..}, of which every other member is
 * a variable as of set_variable. "reasoning_content" of an assistant message is its thought.
 * CORRUPT: not JSON, or not of that form; then nothing was changed. */
PONDER_API(HANDLE)
ponder_status
    ponder_chat_add_json(ponder_chat *c, const char *json, size_t size, ponder_error **err);

/* The chat in the last of those forms. size is in bytes. BUFFER_TOO_SMALL. */
PONDER_API(HANDLE)
ponder_status ponder_chat_get_json(const ponder_chat *c, char *text, size_t *size);

/* How many messages there are; 0 for c NULL. */
PONDER_API(HANDLE) uint32_t ponder_chat_message_count(const ponder_chat *c);

/* Keeps the first `count` messages; tools and variables stay. */
PONDER_API(HANDLE) ponder_status ponder_chat_truncate(ponder_chat *c, uint32_t count);

/* The tools that the model may call: a JSON array in the form of OpenAI's chat API. json NULL:
 * none. CORRUPT: not a JSON array. */
PONDER_API(HANDLE)
ponder_status
    ponder_chat_set_tools(ponder_chat *c, const char *json, size_t size, ponder_error **err);

/* A variable that the template may read ("enable_thinking"), as JSON. json NULL takes it back.
 * CORRUPT: not JSON. */
PONDER_API(HANDLE)
ponder_status ponder_chat_set_variable(ponder_chat *c, const char *name, const char *json,
                                       size_t size, ponder_error **err);

/* Whether the rendered text ends with the opening of the assistant's turn; default 1. */
PONDER_API(HANDLE) ponder_status ponder_chat_set_generation_prompt(ponder_chat *c, int32_t on);

/* The text that the model would be given. NOT_FOUND: the model has no template. CORRUPT: the
 * template failed or refused, with its own words. BUFFER_TOO_SMALL. */
PONDER_API(HANDLE)
ponder_status ponder_chat_render(const ponder_chat *c, const ponder_model *m, char *text,
                                 size_t *size, ponder_error **err);

/* ---- requests -------------------------------------------------------------------------------- */

/* An empty request: a prompt must be set, all else starts with the model's own recommendation
 * (ponder_model_info). A request belongs to no model, is read by submit, may be used again and may
 * be destroyed while its generations run. */
PONDER_API(ANY) ponder_status ponder_request_create(ponder_request **out);
PONDER_API(ANY) void ponder_request_destroy(ponder_request *r);

/* The prompt, one of three; the last one set counts. Each states the whole history. */
/* A chat, copied now and rendered with the model's template by submit. */
PONDER_API(HANDLE) ponder_status ponder_request_set_chat(ponder_request *r, const ponder_chat *c);
/* Text, tokenised by submit. flags: PONDER_TOKENIZE_*. */
PONDER_API(HANDLE)
ponder_status
    ponder_request_set_text(ponder_request *r, const char *text, size_t size, int32_t flags);
/* Tokens as they are; nothing is added. count 1 to 2^31 - 1. */
PONDER_API(HANDLE)
ponder_status
    ponder_request_set_tokens(ponder_request *r, const ponder_token *tokens, size_t count);

/* The most tokens to generate, thought included; 0, the default: as many as the context holds. */
PONDER_API(HANDLE) ponder_status ponder_request_set_max_tokens(ponder_request *r, uint32_t n);

/* The same request with the same seed on the same model gives the same tokens, whatever else runs.
 * Default: another seed for each submit. */
PONDER_API(HANDLE) ponder_status ponder_request_set_seed(ponder_request *r, uint64_t seed);

/* 0: always the likeliest token (greedy). Finite, 0 to 100. */
PONDER_API(HANDLE) ponder_status ponder_request_set_temperature(ponder_request *r, float t);

/* Only the likeliest tokens that together reach p. Above 0, at most 1; 1: off. */
PONDER_API(HANDLE) ponder_status ponder_request_set_top_p(ponder_request *r, float p);

/* Only the k likeliest tokens; 0: off. */
PONDER_API(HANDLE) ponder_status ponder_request_set_top_k(ponder_request *r, uint32_t k);

/* Only tokens at least p times as likely as the likeliest. 0 to 1; 0: off. */
PONDER_API(HANDLE) ponder_status ponder_request_set_min_p(ponder_request *r, float p);

/* Against repetition. repeat divides (multiplies, below zero) the logits of tokens seen in prompt
 * or output: 0.01 to 100, 1: off. presence is taken from the logits of tokens in the output,
 * frequency as often as they occur there: -100 to 100, 0: off. */
PONDER_API(HANDLE)
ponder_status
    ponder_request_set_penalties(ponder_request *r, float repeat, float presence, float frequency);

/* bias[i], -1e6 to 1e6, is added to the logit of tokens[i]; minus infinity forbids it. Replaces
 * what was set; count 0: none. Tokens outside the vocabulary, and one given twice, are
 * INVALID_ARGUMENT at submit. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_logit_bias(ponder_request *r, const ponder_token *tokens,
                                            const float *bias, size_t count);

/* The generation ends when this text appears in the answer; the text itself is not handed out.
 * 1 to 4096 bytes; at most 64 of them. */
PONDER_API(HANDLE)
ponder_status ponder_request_add_stop(ponder_request *r, const char *text, size_t size);

/* Events carry the natural logarithm of each token's probability under the model itself (before
 * temperature and filters), and that of the top_n likeliest tokens in its place. 0 to 1000;
 * -1, the default: neither. */
PONDER_API(HANDLE) ponder_status ponder_request_set_logprobs(ponder_request *r, int32_t top_n);

/* Nonzero: an end-of-text token is a token like others and does not end the generation. Default
 * 0. For measurements. */
PONDER_API(HANDLE) ponder_status ponder_request_set_ignore_eos(ponder_request *r, int32_t on);

enum {
  PONDER_SPECULATION_OFF = 0,
  PONDER_SPECULATION_NGRAM = 1, /* what followed the same words earlier in the prompt or output */
  PONDER_SPECULATION_MTP = 2,   /* the model's own draft layer, if loaded: see set_draft_layer */
  PONDER_SPECULATION_DRAFT_MODEL = 3 /* a smaller model: see set_draft_model */
};

/* PONDER_SPECULATION_*, who guesses tokens ahead for the model to check several in one step; default
 * OFF. Changes nothing but the speed, whatever the sampling; guesses only while that is faster, at
 * most max_draft at a time, which counts up to 16; 0: as suits the method. submit gives UNSUPPORTED
 * for MTP if the model was loaded without a draft layer. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_speculation(ponder_request *r, int32_t method, uint32_t max_draft);

/* The model that guesses for PONDER_SPECULATION_DRAFT_MODEL, of the same runtime and the same tokens;
 * the request, and what is submitted, keeps it alive. It guesses while its own KV cache has room.
 * NULL, the default: none. submit gives INVALID_ARGUMENT if there is none, if it is the session's own
 * model or another runtime's, and MISMATCH if its tokenizer is another. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_draft_model(ponder_request *r, ponder_model *m);

enum {
  PONDER_REASONING_MODEL = 0, /* as template and model have it */
  PONDER_REASONING_OFF = 1,   /* no thinking phase: an open thought is closed at once */
  PONDER_REASONING_ON = 2     /* a thought is opened if the template did not */
};

/* PONDER_REASONING_*; default MODEL. submit gives UNSUPPORTED for ON if the model cannot. */
PONDER_API(HANDLE) ponder_status ponder_request_set_reasoning(ponder_request *r, int32_t mode);

/* After `soft` thought tokens the thought is closed at the next place where the model would likely
 * close it; at `hard` for certain. 0: no limit. Where both are set soft is at most hard. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_thought_budget(ponder_request *r, uint32_t soft, uint32_t hard);

/* Said as the model's own words before a forced close (hard budget, close_thought). size 0, the
 * default: nothing. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_thought_closing(ponder_request *r, const char *text, size_t size);

/* Nonzero: thought events carry counts but neither text nor tokens. Default 0. */
PONDER_API(HANDLE)
ponder_status ponder_request_set_thought_hidden(ponder_request *r, int32_t hidden);

/* ---- sessions -------------------------------------------------------------------------------- */

/* An empty timeline on a model, which it keeps alive. Takes cache only as it fills. */
PONDER_API(ANY)
ponder_status ponder_session_create(ponder_model *m, ponder_session **out, ponder_error **err);

/* Cancels what is under way in it: that generation still ends with FINISHED. */
PONDER_API(ANY) void ponder_session_destroy(ponder_session *s);

/* A second timeline with the same past; the cache is shared until they differ. BUSY: a generation
 * is under way. */
PONDER_API(HANDLE) ponder_status ponder_session_fork(ponder_session *s, ponder_session **out);

/* How many tokens the timeline holds computed, prompts and generated; 0 for s NULL. */
PONDER_API(HANDLE) uint32_t ponder_session_token_count(const ponder_session *s);

/* Forgets all but the first token_count tokens, of which there must be as many. BUSY: a generation
 * is under way. */
PONDER_API(HANDLE) ponder_status ponder_session_truncate(ponder_session *s, uint32_t token_count);

/* Starts a request and returns at once; the events tell the rest. The request states the whole
 * prompt: the session computes only what it does not hold yet. One generation at a time per
 * session, else BUSY; generations of many sessions run together. CONTEXT_FULL: the prompt does not
 * fit. NOT_FOUND and CORRUPT as ponder_chat_render. UNSUPPORTED as the request's setters say. */
PONDER_API(HANDLE)
ponder_status ponder_session_submit(ponder_session *s, const ponder_request *r,
                                    ponder_generation **out, ponder_error **err);

/* ---- generations ----------------------------------------------------------------------------- */

enum {
  PONDER_EVENT_STARTED = 1,     /* prompt_tokens, of which cached_tokens need no work; the first
                                   event, unless it is cancelled before it starts */
  PONDER_EVENT_PREFILL = 2,     /* progress: done_tokens of prompt_tokens */
  PONDER_EVENT_THOUGHT = 3,     /* text: a piece of the chain of thought */
  PONDER_EVENT_THOUGHT_END = 4, /* finish: who closed it: STOP (the model), BUDGET or HOST */
  PONDER_EVENT_ANSWER = 5,      /* text: a piece of the answer */
  PONDER_EVENT_TOOL_CALL = 6,   /* name, id, text: the arguments, complete JSON. Where the chat has
                                   tools and the model's template shows how it calls them */
  PONDER_EVENT_FINISHED = 7     /* finish: why; the last event */
};                              /* new kinds may appear: skip what you do not know */

enum {
  PONDER_FINISH_STOP = 1,      /* the model ended, or a stop text was met */
  PONDER_FINISH_LENGTH = 2,    /* max_tokens, or the context is full */
  PONDER_FINISH_TOOL = 3,      /* the model ended after calling tools */
  PONDER_FINISH_CANCELLED = 4, /* by cancel, or its session's destroy */
  PONDER_FINISH_BUDGET = 5,    /* THOUGHT_END only: a thought budget */
  PONDER_FINISH_HOST = 6       /* THOUGHT_END only: close_thought, or REASONING_OFF */
};

typedef struct ponder_event {
  int32_t kind;   /* PONDER_EVENT_* */
  int32_t finish; /* PONDER_FINISH_* where the kind says so, else 0 */
  /* Whole code points, always. All pointers of an event live until the next call with its
   * generation other than SIGNAL ones. */
  ponder_str text, name, id;
  const ponder_token *tokens;     /* [token_count] of this piece; FINISHED: all of the generation,
                                     markers and end-of-text included */
  const float *logprobs;          /* [token_count], if asked for, else NULL */
  const ponder_token *top_tokens; /* [token_count * top_count], if asked for, likeliest first */
  const float *top_logprobs;      /* [token_count * top_count] */
  uint32_t token_count, top_count;
  /* Totals of this generation so far, in every event. */
  uint32_t prompt_tokens, cached_tokens, done_tokens, thought_tokens, answer_tokens;
} ponder_event;

/* The next event. OK: an event. PENDING: none now. DONE: after FINISHED. Negative: the generation
 * failed (OUT_OF_MEMORY, DEVICE, INTERNAL); it stays failed. On anything but OK the event is
 * zeroed. */
PONDER_API(HANDLE)
ponder_status ponder_generation_next(ponder_generation *g, ponder_event *ev, size_t ev_size,
                                     ponder_error **err);

/* Waits until next() has news, an end or a failure included (OK), or timeout_us microseconds have
 * passed (PENDING); DONE when the last event was taken. In DRIVE_HOST it drives the runtime
 * meanwhile; BUSY there: another thread is driving. Invalidates no event. */
PONDER_API(HANDLE) ponder_status ponder_generation_wait(ponder_generation *g, uint64_t timeout_us);

/* Ends the generation at the next layer boundary; FINISHED with CANCELLED follows. */
PONDER_API(SIGNAL) void ponder_generation_cancel(ponder_generation *g);

/* "Answer now, with what you have": closes the thought before the next token. Nothing if the model
 * is not thinking. */
PONDER_API(SIGNAL) void ponder_generation_close_thought(ponder_generation *g);

/* fn is called when next() may have become worth calling; news from before is not told again, so
 * ask once after this. fn NULL: none. A call of the old fn that is under way on another thread may
 * still be running when this returns. */
PONDER_API(SIGNAL)
void ponder_generation_set_waker(ponder_generation *g, ponder_wake_fn fn, void *user);

/* A pointer of the host's own, kept and never looked at; NULL at first. */
PONDER_API(HANDLE) void ponder_generation_set_user_data(ponder_generation *g, void *user);
PONDER_API(HANDLE) void *ponder_generation_get_user_data(const ponder_generation *g);

/* Cancels it if it is not done. No callback set with set_waker begins after this returns. */
PONDER_API(ANY) void ponder_generation_destroy(ponder_generation *g);

/* ---- without sampling ------------------------------------------------------------------------ */

/* The natural logarithms of the probabilities the model gives to a text: logprobs[i], of count - 1,
 * is that of tokens[i + 1] after tokens[0..i]. top_n above 0: top_tokens and top_logprobs, both
 * [count * top_n], get the likeliest tokens after each tokens[0..i], likeliest first. Any of the
 * three arrays may be NULL. count 1 to the context, top_n at most the vocabulary. Blocks; in
 * DRIVE_HOST it drives the runtime meanwhile; BUSY there: another thread is driving. CONTEXT_FULL,
 * DEVICE. */
PONDER_API(ANY)
ponder_status ponder_model_score(ponder_model *m, const ponder_token *tokens, size_t count,
                                 uint32_t top_n, float *logprobs, ponder_token *top_tokens,
                                 float *top_logprobs, ponder_error **err);

/* ---- quantising ------------------------------------------------------------------------------ */

/* Writes the model at `from`, a folder in the Hugging Face layout (Qwen2, Llama, Qwen3) or a GGUF
 * file, to the GGUF file `to` with its matrices in another type: "q4_k_m", "q8_0" and so on as
 * docs/formats/quantization.md lists them. importance is a file made by ponder_calibrate, or NULL.
 * threads 0: one per physical core. fn (may be NULL) is told the bytes read so far, on the calling
 * thread. Blocks. `to` appears when it is whole. NOT_FOUND, IO, CORRUPT (a weight that is no number),
 * UNSUPPORTED, MISMATCH (importance of another model), CANCELLED. */
PONDER_API(ANY)
ponder_status ponder_quantize(const char *from, const char *to, const char *type,
                              const char *importance, uint32_t threads, ponder_progress_fn fn,
                              void *user, ponder_error **err);

/* Measures on a text, by reading it with the model at `path`, how much each column of each weight
 * matters, and writes that to the file `to` for ponder_quantize. o may be NULL. fn (may be NULL) is
 * told the windows of 512 tokens read so far. Blocks; in DRIVE_HOST it drives the runtime meanwhile.
 * INVALID_ARGUMENT: the text is shorter than a window. Errors as those of load and score. */
PONDER_API(ANY)
ponder_status ponder_calibrate(ponder_runtime *rt, const char *path, const ponder_model_options *o,
                               const char *text, size_t size, const char *to,
                               ponder_progress_fn fn, void *user, ponder_error **err);

/* ---- numbers --------------------------------------------------------------------------------- */

typedef struct ponder_stats { /* a field without meaning for the object asked is 0 */
  uint64_t prompt_tokens, cached_tokens, thought_tokens, answer_tokens;
  uint64_t steps, preemptions;
  uint64_t kv_bytes, kv_bytes_used, scratch_bytes;
  uint64_t prefill_us, decode_us; /* of a generation: from submit to the first token, and after */
  uint32_t running, waiting;      /* of a model: generations now */
  float prefill_tokens_per_s, decode_tokens_per_s;
  /* Of a model with set_expert_bytes: the limit and what is held now; experts that steps wanted and
   * found or had to read; bytes read from the files for that. */
  uint64_t expert_bytes, expert_bytes_used, expert_hits, expert_misses, expert_bytes_read;
  /* With set_speculation: tokens that were guessed and checked, and those of them that were right. */
  uint64_t drafted_tokens, accepted_tokens;
} ponder_stats;

/* Of all generations of a model since it was loaded. */
PONDER_API(ANY)
ponder_status ponder_model_get_stats(const ponder_model *m, ponder_stats *stats, size_t stats_size);

/* Of one generation so far. */
PONDER_API(HANDLE)
ponder_status
    ponder_generation_get_stats(const ponder_generation *g, ponder_stats *stats, size_t stats_size);

#ifdef __cplusplus
}
#endif
#endif /* PONDER_PONDER_H_ */
