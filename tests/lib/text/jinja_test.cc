// The template language against recorded answers of Jinja2 itself, and what only we promise: error
// classes, line numbers, the names a template reads, concurrent rendering.
#include "lib/text/jinja.h"

#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/paths/paths.h"

namespace ponder::jinja {
namespace {

using Json = nlohmann::ordered_json;

RenderOptions options() {
  RenderOptions o;
  o.strftime = [](absl::string_view format) { return "NOW:" + std::string(format); };
  return o;
}

StatusOr<std::string> render(absl::string_view source, const Json& variables = Json::object()) {
  PONDER_ASSIGN_OR_RETURN(const auto compiled, Template::compile(source));
  return compiled->render(variables, options());
}

std::string text(absl::string_view source, const Json& variables = Json::object()) {
  const auto rendered = render(source, variables);
  return rendered.ok() ? *rendered : "ERROR " + std::string(rendered.status().message());
}

TEST(JinjaReference, RendersWhatJinja2Renders) {
  std::ifstream in(std::string(kSourceDir) + "/tests/data/text/jinja_cases.json");
  const Json data = Json::parse(in);
  ASSERT_GT(data["cases"].size(), 2000u);
  for (const Json& row : data["cases"]) {
    const auto source = row[0].get<std::string>();
    const auto rendered = render(source, data["variables"]);
    if (row[1].is_null()) {
      EXPECT_FALSE(rendered.ok()) << source << "\nis an error, got: " << *rendered;
    } else if (rendered.ok()) {
      EXPECT_EQ(row[1].get<std::string>(), *rendered) << source;
    } else {
      ADD_FAILURE() << source << "\n" << rendered.status();
    }
  }
}

TEST(JinjaErrors, SyntaxErrorsAreCorruptAndNameTheLine) {
  for (const auto& [source, line] :
       std::vector<std::pair<std::string, int>>{{"a\nb {{ 1 + }}", 2},
                                                {"{% if a %}\n\n{% endfor %}", 3},
                                                {"\n{% nosuch %}", 2},
                                                {"{{ a|nosuch }}", 1},
                                                {"\n\n{{ a is nosuch }}", 3},
                                                {"{# open", 1},
                                                {"x\n{% raw %}", 2},
                                                {"{{ 'open }}", 1},
                                                {"\n{{ (1] }}", 2},
                                                {"{% break %}", 1},
                                                {"{{ f(a=1, a=2) }}", 1},
                                                {"{{ 99999999999999999999 }}", 1}}) {
    const auto compiled = Template::compile(source);
    ASSERT_FALSE(compiled.ok()) << source;
    EXPECT_EQ(absl::StatusCode::kDataLoss, compiled.status().code()) << source;
    EXPECT_EQ(0u, compiled.status().message().find("line " + std::to_string(line) + ": "))
        << source << "\n"
        << compiled.status();
  }
  EXPECT_EQ(absl::StatusCode::kDataLoss, Template::compile("\xff").status().code());
}

TEST(JinjaErrors, RaiseExceptionSpeaksInTheTemplatesWords) {
  const Status s = render("a\n{{ raise_exception('Roles must alternate: é') }}").status();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, s.code());
  EXPECT_EQ("Roles must alternate: é", s.message());
}

TEST(JinjaErrors, RunTimeErrorsNameLineAndReason) {
  const Status undefined = render("a\n\n{{ x.y.z }}").status();
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, undefined.code());
  EXPECT_EQ("line 3: UndefinedError: 'x' is undefined", undefined.message());
  EXPECT_EQ("line 1: TypeError: can only concatenate str (not \"NoneType\") to str",
            render("{{ 'a' + none }}").status().message());
  EXPECT_EQ(
      "line 2: UndefinedError: 'dict object' has no attribute 'b'",
      render("{% macro f(m) %}\n{{ m.b.c }}{% endmacro %}{{ f({'a': 1}) }}").status().message());
}

TEST(JinjaErrors, TheSandboxForbidsChangesAndInternals) {
  for (const char* source : {"{{ [1].append(2) }}", "{{ {'a': 1}.update({}) }}",
                             "{{ {'a': 1}.pop('a') }}", "{{ ''.__class__.__mro__ }}",
                             "{{ x.__init__.__globals__ }}", "{{ '{0.__class__.x}'.format(1) }}"}) {
    const Status s = render(source, Json{{"x", 1}}).status();
    EXPECT_EQ(absl::StatusCode::kDataLoss, s.code()) << source << s;
    EXPECT_NE(std::string::npos, s.message().find("SecurityError")) << source << s;
  }
}

TEST(JinjaTemplate, TellsTheVariablesItReads) {
  const auto compiled = Template::compile(
      "{% set a = 1 %}{{ a }}{{ b }}{% for c in d %}{{ c }}{{ loop.index }}{% endfor %}"
      "{% if not e is defined %}{% set e = 2 %}{% endif %}{{ range(3) }}{{ raise_exception }}"
      "{% macro f(g) %}{{ g }}{{ h }}{% endmacro %}");
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  EXPECT_EQ((std::vector<std::string>{"b", "d", "e", "h"}), (*compiled)->variables());
}

TEST(JinjaTemplate, KeepsTheOrderOfKeysAndLargeNumbers) {
  const Json v =
      Json::parse(R"({"d":{"z":1,"a":18446744073709551615,"m":[1.0,1e2,-0.5,true,null]}})");
  EXPECT_EQ(R"({"z": 1, "a": 18446744073709551615, "m": [1.0, 100.0, -0.5, true, null]})",
            text("{{ d|tojson }}", v));
  EXPECT_EQ("True", text("{{ d.a > 9223372036854775807 }}", v));
  EXPECT_EQ("ERROR line 1: OverflowError: a whole number does not fit in 64 bits",
            text("{{ d.a + 1 }}", v));
}

TEST(JinjaTemplate, AsksTheHostForTheTime) {
  EXPECT_EQ("NOW:%d %b %Y", text("{{ strftime_now('%d %b %Y') }}"));
  const auto compiled = Template::compile("{{ strftime_now('%d') }}");
  EXPECT_FALSE((*compiled)->render(Json::object(), RenderOptions()).ok());
}

TEST(JinjaTemplate, VariablesHideGlobals) {
  EXPECT_EQ("7", text("{{ range }}", Json{{"range", 7}}));
  EXPECT_EQ("5[0, 1]", text("{% set q = 5 %}{{ q }}{{ range(2)|list }}"));
}

TEST(JinjaTemplate, RefusesInputsThatAreNotUtf8OrTooDeep) {
  EXPECT_EQ(absl::StatusCode::kInvalidArgument,
            render("{{ a }}", Json{{"a", "\xff"}}).status().code());
  Json deep = 1;
  for (int i = 0; i < 300; ++i) deep = Json::array({deep});
  EXPECT_EQ(absl::StatusCode::kDataLoss, render("{{ a }}", Json{{"a", deep}}).status().code());
  EXPECT_EQ(absl::StatusCode::kInvalidArgument, render("x", Json::array()).status().code());
}

TEST(JinjaTemplate, RendersOnManyThreadsAtOnce) {
  const auto compiled = Template::compile(
      "{% macro f(x) %}<{{ x|upper }}>{% endmacro %}{% for m in ms if m != 'b' %}"
      "{{ f(m) }}{{ 'é'|length }}{{ loop.last }}{% endfor %}{{ {'k': 'v'}|tojson }}");
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto r = (*compiled)->render(Json{{"ms", {"a", "b", "c"}}}, options());
        wrong[t] += !r.ok() || *r != "<A>1False<C>1True{\"k\": \"v\"}";
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(std::vector<int>(8, 0), wrong);
}

}  // namespace
}  // namespace ponder::jinja
