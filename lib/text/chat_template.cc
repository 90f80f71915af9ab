#include "lib/text/chat_template.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/text/jinja.h"
#include "lib/text/jinja_unicode.h"

namespace ponder {
namespace {

constexpr uint64_t kSteps = 10'000'000;
// For the small chats that a template is tried with when a model is loaded.
constexpr uint64_t kProbeSteps = 500'000;

// Put at the end of a message that is to be continued, to find it again in the text.
constexpr absl::string_view kEndMark = "PONDER_MESSAGE_ENDS_HERE ";

constexpr absl::string_view kOpen = "<think>";
constexpr absl::string_view kClose = "</think>";

std::tm local_now() {
  const std::time_t now = std::time(nullptr);
  std::tm out{};
  localtime_r(&now, &out);
  return out;
}

// JSON here is filled after it exists: a braced list that runs out of memory halfway loses what it
// already has.
OrderedJson message(absl::string_view role, absl::string_view content) {
  OrderedJson made = OrderedJson::object();
  made["role"] = std::string(role);
  made["content"] = std::string(content);
  return made;
}
OrderedJson variable(const char* name, bool value) {
  OrderedJson made = OrderedJson::object();
  made[name] = value;
  return made;
}

// The thought that `prompt` opens and does not close, with the white space behind it.
std::string open_thought(absl::string_view prompt) {
  const size_t open = prompt.rfind(kOpen);
  if (open == absl::string_view::npos) return "";
  const size_t close = prompt.rfind(kClose);
  if (close != absl::string_view::npos && close > open) return "";
  // Text after it (other than white space) would be a thought already begun.
  return std::string(prompt.substr(open));
}

// The text that a host wants continued, in the last message: its content, or the last text part.
std::string* final_text(OrderedJson& last) {
  const auto content = last.find("content");
  if (content == last.end()) return nullptr;
  if (content->is_string()) return content->get_ptr<std::string*>();
  if (!content->is_array()) return nullptr;
  for (size_t i = content->size(); i-- > 0;) {
    OrderedJson& part = (*content)[i];
    if (!part.is_object()) continue;
    const auto text = part.find("text");
    if (text != part.end() && text->is_string()) return text->get_ptr<std::string*>();
  }
  return nullptr;
}

}  // namespace

ChatTemplate::ChatTemplate(std::unique_ptr<jinja::Template> compiled)
    : template_(std::move(compiled)) {}

ChatTemplate::~ChatTemplate() = default;

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::compile(absl::string_view source) {
  auto compiled = jinja::Template::compile(source);
  if (!compiled.ok()) return in_context(compiled.status(), "chat template");
  std::unique_ptr<ChatTemplate> made(new ChatTemplate(*std::move(compiled)));
  made->find_facts(source);
  return made;
}

bool ChatTemplate::reads(absl::string_view variable) const {
  return std::binary_search(variables().begin(), variables().end(), variable);
}

const std::vector<std::string>& ChatTemplate::variables() const { return template_->variables(); }

StatusOr<std::string> ChatTemplate::render(const Chat& chat, const Options& options) const {
  if (chat.messages().empty()) {
    return invalid_argument_error("the chat has no messages: add one before it is rendered");
  }
  return render_json(chat.messages(), chat.tools(), chat.variables(), chat.generation_prompt(),
                     options, kSteps);
}

StatusOr<std::string> ChatTemplate::render_json(const OrderedJson& messages,
                                                const OrderedJson& tools,
                                                const OrderedJson& variables,
                                                bool generation_prompt, const Options& options,
                                                uint64_t max_steps) const {
  if (options.continue_final && generation_prompt) {
    return invalid_argument_error(
        "a chat whose last message is continued cannot have a generation prompt too: turn one off");
  }
  OrderedJson all = OrderedJson::object();
  all["messages"] = messages;
  all["tools"] = tools;
  all["documents"] = nullptr;
  all["add_generation_prompt"] = generation_prompt;
  for (const auto& [name, token] : options.special_tokens) all[name] = token;
  if (options.thinking.has_value()) {
    for (const char* name : {"enable_thinking", "thinking"}) {
      if (reads(name)) all[name] = *options.thinking;
    }
  }
  for (const auto& [name, value] : variables.items()) all[name] = value;

  if (options.continue_final) {
    std::string* const text = final_text(all["messages"].back());
    if (text == nullptr) {
      return invalid_argument_error("the last message has no text that could be continued");
    }
    text->append(kEndMark);
  }

  jinja::RenderOptions render;
  render.max_steps = max_steps;
  render.strftime = [&options](absl::string_view format) {
    return format_time(options.now.has_value() ? *options.now : local_now(), format);
  };
  StatusOr<std::string> rendered = template_->render(all, render);
  if (!rendered.ok()) {
    // The template's own words stay as they are.
    const bool raised = rendered.status().code() == absl::StatusCode::kInvalidArgument &&
                        !absl::StartsWith(rendered.status().message(), "line ");
    return raised ? rendered.status() : in_context(rendered.status(), "chat template");
  }
  if (!options.continue_final) return rendered;

  const absl::string_view mark = jinja::strip_right(kEndMark);
  const size_t at = rendered->rfind(mark);
  if (at == std::string::npos) {
    return invalid_argument_error(
        "the last message cannot be continued: the chat template does not show its text");
  }
  const bool spacing_kept = absl::StartsWith(absl::string_view(*rendered).substr(at), kEndMark);
  rendered->resize(at);
  // A template that trims the message would have trimmed its end too.
  if (!spacing_kept) rendered->resize(jinja::strip_right(*rendered).size());
  return rendered;
}

void ChatTemplate::find_facts(absl::string_view source) {
  const OrderedJson empty = OrderedJson::object();
  const auto prompt = [&](const OrderedJson& messages, const OrderedJson& tools,
                          const OrderedJson& variables, bool generation) {
    Options options;
    options.special_tokens = {{"bos_token", "<bos>"}, {"eos_token", "<eos>"}};
    options.now = std::tm{};
    options.now->tm_mday = 1;
    return render_json(messages, tools, variables, generation, options, kProbeSteps).value_or("");
  };
  OrderedJson user = OrderedJson::array();
  user.push_back(message("user", "ponder-asks"));

  facts_.opened_thought = open_thought(prompt(user, nullptr, empty, true));
  facts_.opened_thought_on = facts_.opened_thought;
  for (const char* name : {"enable_thinking", "thinking"}) {
    if (!reads(name)) continue;
    const OrderedJson on = variable(name, true);
    const OrderedJson off = variable(name, false);
    const std::string with = prompt(user, nullptr, on, true);
    if (with == prompt(user, nullptr, off, true)) continue;
    facts_.thinking_variable = name;
    facts_.opened_thought_on = open_thought(with);
    break;
  }

  OrderedJson system = OrderedJson::array();
  system.push_back(message("system", "ponder-rules"));
  system.push_back(user[0]);
  facts_.shows_system = absl::StrContains(prompt(system, nullptr, empty, true), "ponder-rules");

  const OrderedJson tools = OrderedJson::parse(
      R"([{"type":"function","function":
           {"name":"ponder_tool","description":"d","parameters":{"type":"object"}}}])");
  facts_.shows_tools = absl::StrContains(prompt(user, tools, empty, true), "ponder_tool");

  // Some templates take the arguments as text, some as an object.
  for (const OrderedJson& arguments : {OrderedJson("{}"), OrderedJson::object()}) {
    OrderedJson calling = message("assistant", "");
    calling["tool_calls"] = OrderedJson::parse(
        R"([{"id":"call00001","type":"function","function":{"name":"ponder_tool"}}])");
    calling["tool_calls"][0]["function"]["arguments"] = arguments;
    OrderedJson result = message("tool", "ponder-result");
    result["tool_call_id"] = "call00001";
    result["name"] = "ponder_tool";
    OrderedJson chat = user;
    chat.push_back(std::move(calling));
    chat.push_back(std::move(result));
    if (absl::StrContains(prompt(chat, nullptr, empty, true), "ponder-result")) {
      facts_.shows_tool_results = true;
      break;
    }
  }

  OrderedJson thinking = message("assistant", "ponder-says");
  thinking["reasoning_content"] = "ponder-thinks";
  const OrderedJson past = OrderedJson::array({user[0], thinking});
  facts_.reads_thoughts = absl::StrContains(prompt(past, nullptr, empty, false), "ponder-thinks");

  facts_.tool_format = detect_tool_format(source);
}

std::string format_time(const std::tm& time, absl::string_view format) {
  static constexpr absl::string_view kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                "Thursday", "Friday", "Saturday"};
  static constexpr absl::string_view kMonths[] = {"January",   "February", "March",    "April",
                                                  "May",       "June",     "July",     "August",
                                                  "September", "October",  "November", "December"};
  std::string out;
  const auto number = [&out](int value, size_t width, char fill = '0') {
    const std::string digits = absl::StrCat(value);
    if (digits.size() < width) out.append(width - digits.size(), fill);
    out += digits;
  };
  const absl::string_view day = kDays[std::clamp(time.tm_wday, 0, 6)];
  const absl::string_view month = kMonths[std::clamp(time.tm_mon, 0, 11)];
  const int hour12 = time.tm_hour % 12 == 0 ? 12 : time.tm_hour % 12;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 == format.size()) {
      out.push_back(format[i]);
      continue;
    }
    char code = format[++i];
    // "%-d": without the leading zero, as the GNU library has it.
    const bool bare = code == '-' && i + 1 < format.size();
    if (bare) code = format[++i];
    const size_t two = bare ? 1 : 2;
    switch (code) {
      case 'a':
        out += day.substr(0, 3);
        break;
      case 'A':
        out += day;
        break;
      case 'b':
      case 'h':
        out += month.substr(0, 3);
        break;
      case 'B':
        out += month;
        break;
      case 'c':
        out += format_time(time, "%a %b %e %H:%M:%S %Y");
        break;
      case 'd':
        number(time.tm_mday, two);
        break;
      case 'D':
        out += format_time(time, "%m/%d/%y");
        break;
      case 'e':
        number(time.tm_mday, two, ' ');
        break;
      case 'f':
        out += "000000";
        break;
      case 'F':
        out += format_time(time, "%Y-%m-%d");
        break;
      case 'H':
        number(time.tm_hour, two);
        break;
      case 'I':
        number(hour12, two);
        break;
      case 'j':
        number(time.tm_yday + 1, bare ? 1 : 3);
        break;
      case 'm':
        number(time.tm_mon + 1, two);
        break;
      case 'M':
        number(time.tm_min, two);
        break;
      case 'n':
        out.push_back('\n');
        break;
      case 'p':
        out += time.tm_hour < 12 ? "AM" : "PM";
        break;
      case 'r':
        out += format_time(time, "%I:%M:%S %p");
        break;
      case 'R':
        out += format_time(time, "%H:%M");
        break;
      case 'S':
        number(time.tm_sec, two);
        break;
      case 't':
        out.push_back('\t');
        break;
      case 'T':
      case 'X':
        out += format_time(time, "%H:%M:%S");
        break;
      case 'u':
        number(time.tm_wday == 0 ? 7 : time.tm_wday, 1);
        break;
      case 'U':
        number((time.tm_yday + 7 - time.tm_wday) / 7, two);
        break;
      case 'w':
        number(time.tm_wday, 1);
        break;
      case 'W':
        number((time.tm_yday + 7 - (time.tm_wday + 6) % 7) / 7, two);
        break;
      case 'x':
        out += format_time(time, "%m/%d/%y");
        break;
      case 'y':
        number(time.tm_year % 100, two);
        break;
      case 'Y':
        number(time.tm_year + 1900, bare ? 1 : 4);
        break;
      case 'z':
      case 'Z':
        break;  // Python's naive times have no zone
      case '%':
        out.push_back('%');
        break;
      default:
        out.push_back('%');
        if (bare) out.push_back('-');
        out.push_back(code);
    }
  }
  return out;
}

}  // namespace ponder
