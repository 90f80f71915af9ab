// Every allocation of opening a model fails once: the only thing that may come out is bad_alloc
// (the C API's guard makes it a status), and nothing may be left behind.

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>

#include "gtest/gtest.h"
#include "lib/format/model_files.h"
#include "tests/lib/format/test_files.h"

namespace {

std::atomic<long> live{0};       // allocations not freed yet
std::atomic<long> countdown{0};  // the allocation that fails; 0: none

bool fails_now() { return countdown.load() > 0 && countdown.fetch_sub(1) == 1; }

// Not inlined: the compiler would see malloc meet delete, and warn.
[[gnu::noinline]] void* allocate(size_t size, size_t align) {
  if (fails_now()) return nullptr;
  void* p = align <= alignof(std::max_align_t)
                ? std::malloc(size == 0 ? 1 : size)
                : std::aligned_alloc(align, (size + align - 1) / align * align);
  if (p != nullptr) ++live;
  return p;
}

[[gnu::noinline]] void release(void* p) {
  if (p == nullptr) return;
  --live;
  std::free(p);
}

}  // namespace

void* operator new(size_t size) {
  void* p = allocate(size, 1);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new[](size_t size) { return operator new(size); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return allocate(size, 1); }
void* operator new(size_t size, std::align_val_t align) {
  void* p = allocate(size, static_cast<size_t>(align));
  if (p == nullptr) throw std::bad_alloc();
  return p;
}
void* operator new(size_t size, std::align_val_t align, const std::nothrow_t&) noexcept {
  return allocate(size, static_cast<size_t>(align));
}
void operator delete(void* p) noexcept { release(p); }
void operator delete[](void* p) noexcept { release(p); }
void operator delete(void* p, size_t) noexcept { release(p); }
void operator delete[](void* p, size_t) noexcept { release(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { release(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { release(p); }

namespace ponder {
namespace {

HostFiles sharded_model() {
  HostFiles host;
  host.files["config.json"] =
      R"({"architectures":["Qwen2ForCausalLM"],"rope_parameters":{"rope_type":"yarn","rope_theta":1}})";
  host.files["generation_config.json"] = R"({"eos_token_id":[1,2]})";
  host.files["tokenizer.json"] = R"({"model":{"type":"BPE"}})";
  host.files["tokenizer_config.json"] =
      R"({"eos_token":"a token that is long enough to need memory of its own","chat_template":
          [{"name":"default","template":"a template that is long enough as well, surely"}]})";
  host.files["1"] = small_safetensors({"model.layers.0.a.weight", "model.layers.0.b.weight"});
  host.files["2"] = small_safetensors({"model.layers.1.a.weight"});
  host.files["model.safetensors.index.json"] =
      R"({"weight_map":{"model.layers.0.a.weight":"1","model.layers.0.b.weight":"1",
          "model.layers.1.a.weight":"2"}})";
  return host;
}

Status open_and_find(const std::shared_ptr<const FileSource>& source) {
  PONDER_ASSIGN_OR_RETURN(const ModelFiles files, open_model(source));
  for (const std::string& name : files.weights->names()) {
    PONDER_RETURN_IF_ERROR(files.weights->find(name).status());
  }
  return OkStatus();
}

TEST(OutOfMemory, AnyFailingAllocationWhileOpeningLeavesNothingBehind) {
  HostFiles host = sharded_model();
  auto source = host.source();
  ASSERT_TRUE(open_and_find(source).ok());  // what is made once and kept is made here

  bool finished = false;
  int failed = 0;
  for (long n = 1; !finished && n < 100'000; ++n) {
    const long before = live;
    {
      Status status;
      bool threw = false;
      countdown = n;
      try {
        status = open_and_find(source);
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      finished = countdown.exchange(0) > 0;  // fewer than n allocations: none failed
      if (finished) {
        EXPECT_TRUE(status.ok()) << status;
      } else {
        // A Buffer reports its own failure as a status, JSON values have memory to fall back on;
        // anything else throws.
        failed += threw ? 1 : 0;
        EXPECT_TRUE(threw || status.ok() || status.code() == kNoMemory) << n << ": " << status;
      }
    }
    ASSERT_EQ(before, live) << "allocation " << n;
  }
  EXPECT_TRUE(finished);
  EXPECT_GT(failed, 100);
}

TEST(OutOfMemory, AnyFailingAllocationOfAFolderLeavesNothingBehind) {
  TemporaryFolder folder;
  folder.write("a", "hello");
  bool finished = false;
  for (long n = 1; !finished && n < 1000; ++n) {
    const long before = live;
    {
      countdown = n;
      try {
        auto source = open_folder(folder.path(), Mapping::kAlways);
        if (source.ok()) (void)(*source)->map("a");
      } catch (const std::bad_alloc&) {
      }
      finished = countdown.exchange(0) > 0;
    }
    ASSERT_EQ(before, live) << "allocation " << n;
  }
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace ponder
