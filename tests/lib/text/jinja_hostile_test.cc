// Templates that attack: each must end with an error, soon, in little memory, on a small stack.
#include <pthread.h>
#include <sys/resource.h>

#include <chrono>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/text/jinja.h"

namespace ponder::jinja {
namespace {

// Sanitizers put red zones between variables: frames are several times larger.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStack = 4 * 1024 * 1024;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr size_t kStack = 4 * 1024 * 1024;
#else
constexpr size_t kStack = 256 * 1024;
#endif
#else
constexpr size_t kStack = 256 * 1024;
#endif

struct Job {
  std::string source;
  Status status;
  double seconds = 0;
};

void* run_job(void* p) {
  auto* job = static_cast<Job*>(p);
  const auto start = std::chrono::steady_clock::now();
  auto compiled = Template::compile(job->source);
  job->status = compiled.status();
  if (compiled.ok()) {
    const nlohmann::ordered_json v = {{"m", {{{"role", "user"}, {"content", "hi"}}}}};
    job->status = (*compiled)->render(v, RenderOptions()).status();
  }
  job->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return nullptr;
}

// Compiles and renders on a thread with a small stack.
Job on_small_stack(const std::string& source) {
  Job job;
  job.source = source;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStack);
  pthread_t thread;
  EXPECT_EQ(0, pthread_create(&thread, &attributes, run_job, &job));
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  return job;
}

std::string repeat(const std::string& what, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += what;
  return out;
}

void expect_stopped(const std::string& source) {
  const Job job = on_small_stack(source);
  EXPECT_FALSE(job.status.ok()) << source.substr(0, 200);
  // Alone on a machine each takes well under a second; tests share theirs.
  EXPECT_LT(job.seconds, 20) << source.substr(0, 200);
}

void expect_survived(const std::string& source) {
  const Job job = on_small_stack(source);
  EXPECT_LT(job.seconds, 20) << source.substr(0, 200);
}

const char kLoops[] = "{% for a in range(100000) %}{% for b in range(100000) %}";
const char kEnds[] = "{% endfor %}{% endfor %}";

TEST(JinjaHostile, EndlessLoopsRunOutOfSteps) {
  const Job job = on_small_stack(std::string(kLoops) + kEnds);
  EXPECT_EQ(absl::StatusCode::kDataLoss, job.status.code());
  EXPECT_NE(std::string::npos, job.status.message().find("steps")) << job.status;
  expect_stopped(std::string(kLoops) + "{% set x = 'a' ~ b %}" + kEnds);
  expect_stopped(std::string(kLoops) + "x" + kEnds);
  expect_stopped(std::string(kLoops) + "{{ 'text' }}" + kEnds);
  expect_stopped("{{ range(999999999) }}");
  expect_stopped("{% for x in range(10**12) %}{% endfor %}");
  expect_stopped(
      "{% set ns = namespace(l=range(100000)|list) %}"
      "{% for a in range(100000) %}{{ ns.l|sort|length }}{% endfor %}");
  expect_stopped("{% set l = range(100000)|list %}{% for a in l %}{{ a in l }}{% endfor %}");
  expect_stopped("{% for a in range(100000) %}{{ range(100000)|map('string')|join }}{% endfor %}");
  expect_stopped("{% for a in range(100000) %}{{ range(100000)|select('odd')|list }}{% endfor %}");
  expect_stopped("{% for a in range(100000) %}{{ range(100000)|sum }}{% endfor %}");
  expect_stopped("{% for a in range(100000) %}{{ range(100000)|unique|list|length }}{% endfor %}");
  expect_stopped(
      "{% for a in range(100000) if false %}{% endfor %}"
      "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}"
      "{% endfor %}");
}

TEST(JinjaHostile, HugeTextsRunOutOfMemory) {
  const Job job = on_small_stack("{{ 'a' * 10**9 }}");
  EXPECT_EQ(absl::StatusCode::kResourceExhausted, job.status.code()) << job.status;
  for (const char* source :
       {"{{ 'a' * 10**18 }}",
        "{{ [0] * 10**9 }}",
        "{{ (1,) * 10**18 }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.center(10**18) }}",
        "{{ '1'.zfill(10**12) }}",
        "{{ 'a'|center(10**10) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:.999999999f}'.format(1.0) }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{{ 'a'|indent(10**9) }}",
        "{{ [1]|tojson(indent=10**10) }}",
        "{{ [1]|batch(10**9, 'x')|list }}",
        "{{ [1]|slice(10**9)|list }}",
        "{{ ''.join(['a' * 10**6] * 1000) }}",
        "{{ ('a' * 10**6).join(range(1000)|map('string')) }}",
        "{{ ('a' * 10**7).replace('a', 'b' * 10**7) }}",
        "{{ ('a' * 10**7).replace('', 'bbbb') }}",
        "{{ ('ab' * 10**7).split('b') }}",
        "{{ ('a ' * 10**7).split() }}",
        "{{ ('a\\n' * 10**7).splitlines() }}",
        "{{ ('a' * 10**7)|list }}",
        "{{ ('a' * 10**7)|map('upper')|list }}",
        "{% set ns = namespace(s='ab') %}{% for i in range(100) %}"
        "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}"
        "{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}"
        "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}"
        "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}"
        "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l[0] }}{{ ns.l|string }}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% set x %}{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}{% endset %}",
        "{% macro f() %}{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}{% endmacro %}"
        "{{ f() }}",
        "{% filter upper %}{% for i in range(100000) %}{{ 'a' * 10000 }}{% endfor %}{% endfilter "
        "%}",
        "{% set ns = namespace(d={}) %}{% for i in range(100000) %}"
        "{% set ns.d = dict(ns.d, **{'k' ~ i: 'v' * 1000}) %}{% endfor %}"}) {
    expect_stopped(source);
  }
}

TEST(JinjaHostile, DoublingEqualityIsBounded) {
  expect_survived(
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}"
      "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
      "{{ ns.a == ns.b }}{{ ns.a < ns.b }}");
  expect_survived(
      "{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(60) %}"
      "{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}{% endfor %}"
      "{{ {ns.a: 1}[ns.b] }}");
}

TEST(JinjaHostile, NestingIsRefusedBeforeTheStackEnds) {
  for (const size_t n : {70u, 150u, 5000u, 60000u}) {
    expect_stopped("{{ " + repeat("(", n) + "1" + repeat(")", n) + " }}");
    expect_stopped("{{ " + repeat("[", n) + repeat("]", n) + " }}");
    expect_stopped("{{ " + repeat("{1:", n) + "1" + repeat("}", n) + " }}");
    expect_stopped("{{ " + repeat("a[", n) + "1" + repeat("]", n) + " }}");
    expect_stopped("{{ " + repeat("range(", n) + "1" + repeat(")", n) + " }}");
    expect_stopped("{{ " + repeat("1 if 1 else ", n) + "1" + " }}");
    expect_stopped(repeat("{% if 1 %}", n) + repeat("{% endif %}", n));
    expect_stopped(repeat("{% for x in [1] %}", n) + repeat("{% endfor %}", n));
    expect_stopped(repeat("{% macro f() %}", n) + repeat("{% endmacro %}", n));
    expect_stopped(repeat("{% set x %}", n) + repeat("{% endset %}", n));
    expect_stopped("{% set " + repeat("(", n) + "a" + repeat(",)", n) + " = 1 %}");
    expect_stopped("{{" + repeat("(", n));
  }
  // Deep enough for everything real.
  EXPECT_TRUE(on_small_stack("{{ " + repeat("(", 40) + "1" + repeat(")", 40) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack(repeat("{% if 1 %}", 40) + repeat("{% endif %}", 40)).status.ok());
}

TEST(JinjaHostile, LongChainsNeedNoStack) {
  const size_t n = 10000;
  EXPECT_TRUE(on_small_stack("{{ 1" + repeat("+1", n) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ 'a'" + repeat("~'b'", n) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ 'a'" + repeat("|upper", n) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ 1" + repeat(" and 1", n) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ " + repeat("not ", n) + "1 }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ " + repeat("-", n) + "1 }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ 1" + repeat(" == 1", n) + " }}").status.ok());
  EXPECT_TRUE(on_small_stack("{{ ''" + repeat(".upper()", n / 2) + " }}").status.ok());
  EXPECT_TRUE(
      on_small_stack("{% if 0 %}" + repeat("{% elif 0 %}", n / 2) + "{% endif %}").status.ok());
  expect_survived("{{ x" + repeat(".y", n) + " }}");
  expect_survived("{{ [1]" + repeat("|map('string')", n / 2) + "|list }}");
  expect_survived("{{ [1]" + repeat("|select", n) + "|list }}");
  expect_survived("{{ [1]" + repeat("|reverse", n) + "|list }}");
  expect_stopped(repeat("{{ a }}", 30000));  // too many tokens
  expect_stopped(std::string(600 * 1024, 'x'));
  expect_survived(repeat("{{ a", 5000));
  expect_survived(repeat("{# ", 50000));
  expect_survived(repeat("{%", 50000));
  expect_survived(repeat("{% raw ", 50000));
  expect_survived("{% raw %}" + repeat("{% ", 50000));
  expect_survived("{% raw %}" + repeat("{%-" + std::string(50, ' '), 5000));
  expect_survived(repeat(" ", 200000) + "{% if 1 %}{% endif %}");
  std::string branches;
  for (int i = 0; i < 3000; ++i) branches += "{% if v" + std::to_string(i) + " %}{% endif %}";
  expect_survived(branches + branches);
}

TEST(JinjaHostile, RecursionIsRefused) {
  expect_stopped("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  expect_stopped("{% macro f(x) %}{{ f(x ~ f(x)) }}{% endmacro %}{{ f('a') }}");
  expect_stopped("{% macro f() %}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}");
  expect_stopped("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}");
  expect_stopped("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}");
  expect_stopped(
      "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}");
  expect_stopped(
      "{% set ns = namespace(x=1) %}{% for i in range(1000) %}"
      "{% set ns.x = {'a': ns.x} %}{% endfor %}");
  expect_stopped(
      "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}"
      "{% set ns.x = ns.x|map('string') %}{% endfor %}{{ ns.x|list }}");
  expect_stopped("{% macro f() %}{% for x in [1, 2] if f() %}{% endfor %}{% endmacro %}{{ f() }}");
  // Namespaces inside namespaces are no recursion for us: they end with the rendering.
  EXPECT_TRUE(on_small_stack("{% set ns = namespace(x=1) %}{% for i in range(50000) %}"
                             "{% set ns.x = namespace(x=ns.x) %}{% endfor %}")
                  .status.ok());
  EXPECT_TRUE(
      on_small_stack("{% set ns = namespace(x=1) %}{% for i in range(30000) %}"
                     "{% macro f() %}{{ ns }}{% endmacro %}{% set ns.x = [f] %}{% endfor %}")
          .status.ok());
  expect_survived(
      "{% set ns = namespace(l=1) %}{% for i in range(20000) %}"
      "{% for x in [ns.l] %}{{ loop.changed(loop, ns.l) }}{% set ns.l = loop %}"
      "{% endfor %}{% endfor %}");
}

TEST(JinjaHostile, IteratorsThatReachThemselvesAreSafe) {
  expect_survived(
      "{% set ns = namespace() %}{% macro f() %}{{ ns.l.length }}{% endmacro %}"
      "{% for x in [1,2,3] if not (loop is defined and f()) %}{% set ns.l = loop %}"
      "{{ loop.length }}{{ loop.last }}{{ loop }}{% endfor %}");
  expect_survived(
      "{% set ns = namespace(g=none) %}"
      "{% macro f() %}{{ ns.g|list if ns.g else '' }}{% endmacro %}"
      "{% for x in [1,2,3] if f() == '' or true %}"
      "{% set ns.g = loop|map('first') %}{{ ns.g|list }}{% endfor %}");
  expect_survived(
      "{% set ns = namespace(a=1) %}{% for x in [1,2,3] if ns.a %}"
      "{% set ns.b = loop %}{% set ns['c'] = 1 %}{{ ns }}{% endfor %}");
}

TEST(JinjaHostile, MemoryStaysSmall) {
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  expect_stopped(
      "{% set ns = namespace(s='ab') %}{% for i in range(100) %}"
      "{% set ns.s = ns.s + ns.s %}{{ ns.s }}{% endfor %}");
  expect_stopped("{{ (('ab' * 10**7) ~ ('c' * 10**7)).split('b')|map('upper')|list|tojson }}");
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 160 * 1024) << "KiB";
}

}  // namespace
}  // namespace ponder::jinja
