#include "lib/text/jinja_lexer.h"

#include <charconv>
#include <utility>

#include "absl/strings/match.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_unicode.h"
#include "lib/text/utf8.h"

namespace ponder::jinja {
namespace {

constexpr size_t kNone = absl::string_view::npos;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
int hex_value(char c) { return is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10; }

// Newlines of all systems become "\n", and one at the end goes, as Jinja does it.
std::string normalise_newlines(absl::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

struct Operator {
  absl::string_view text;
  Tok type;
};
// Longer ones first.
constexpr Operator kOperators[] = {
    {"//", Tok::kFloorDiv}, {"**", Tok::kPow},      {"==", Tok::kEq},    {"!=", Tok::kNe},
    {">=", Tok::kGtEq},     {"<=", Tok::kLtEq},     {"+", Tok::kAdd},    {"-", Tok::kSub},
    {"/", Tok::kDiv},       {"*", Tok::kMul},       {"%", Tok::kMod},    {"~", Tok::kTilde},
    {"[", Tok::kLBracket},  {"]", Tok::kRBracket},  {"(", Tok::kLParen}, {")", Tok::kRParen},
    {"{", Tok::kLBrace},    {"}", Tok::kRBrace},    {">", Tok::kGt},     {"<", Tok::kLt},
    {"=", Tok::kAssign},    {".", Tok::kDot},       {":", Tok::kColon},  {"|", Tok::kPipe},
    {",", Tok::kComma},     {";", Tok::kSemicolon},
};

class Lexer {
 public:
  explicit Lexer(absl::string_view source) : normalised_(normalise_newlines(source)) {
    s_ = normalised_;
  }

  StatusOr<std::vector<Token>> run() {
    while (pos_ < s_.size()) PONDER_RETURN_IF_ERROR(text_until_tag());
    PONDER_RETURN_IF_ERROR(check_count());
    add(Tok::kEof, "");
    return std::move(tokens_);
  }

 private:
  char at(size_t i) const { return i < s_.size() ? s_[i] : '\0'; }
  bool has(size_t i, absl::string_view what) const {
    return i <= s_.size() && absl::StartsWith(s_.substr(i), what);
  }

  // Moves to `to`, counting lines; all progress goes through here.
  void advance(size_t to) {
    for (size_t i = pos_; i < to; ++i) line_ += s_[i] == '\n';
    if (to > pos_) line_starting_ = s_[to - 1] == '\n';
    pos_ = to;
  }
  size_t skip_space(size_t i) const { return s_.size() - strip_left(s_.substr(i)).size(); }
  void add(Tok type, absl::string_view text) {
    tokens_.push_back(Token{type, line_, std::string(text), 0, 0});
  }
  void add_data(absl::string_view text) {
    if (!text.empty()) add(Tok::kData, text);
  }

  // If a raw tag opens at `i`: the offset behind it. Its sign is s_[i + 2].
  size_t raw_begin(size_t i) const {
    size_t p = i + 2;
    if (at(p) == '-' || at(p) == '+') ++p;
    p = skip_space(p);
    if (!has(p, "raw")) return kNone;
    p = skip_space(p + 3);
    if (has(p, "-%}")) return skip_space(p + 3);
    return has(p, "%}") ? p + 2 : kNone;
  }

  // If an endraw tag stands at `i`: the offset behind it.
  size_t raw_end(size_t i) const {
    size_t p = i + 2;
    if (at(p) == '-' || at(p) == '+') ++p;
    p = skip_space(p);
    if (!has(p, "endraw")) return kNone;
    p = skip_space(p + 6);
    return tag_end(p, "%}");
  }

  // Behind the end of a block tag or comment at `i`, what is trimmed with it included.
  size_t tag_end(size_t i, absl::string_view end) const {
    if (at(i) == '+' && has(i + 1, end)) return i + 3;
    if (at(i) == '-' && has(i + 1, end)) return skip_space(i + 3);
    if (!has(i, end)) return kNone;
    return at(i + 2) == '\n' ? i + 3 : i + 2;
  }

  // The text before a tag at `tag`, less what the tag strips from it.
  absl::string_view stripped(size_t tag, bool variable) const {
    const absl::string_view text = s_.substr(pos_, tag - pos_);
    const char sign = at(tag + 2);
    if (sign == '-') return strip_right(text);
    if (sign == '+' || variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == kNone ? 0 : newline + 1;
    if (line == 0 && !line_starting_) return text;
    return strip_left(text.substr(line)).empty() ? text.substr(0, line) : text;
  }

  size_t find_tag(size_t from) const {
    for (size_t i = from; (i = s_.find('{', i)) != kNone; ++i) {
      const char c = at(i + 1);
      if (c == '%' || c == '{' || c == '#') return i;
    }
    return kNone;
  }

  // Text, then one whole tag: a comment, a raw block, or a tag with its tokens.
  Status text_until_tag() {
    const size_t tag = find_tag(pos_);
    if (tag == kNone) {
      add_data(s_.substr(pos_));
      advance(s_.size());
      return OkStatus();
    }
    const char kind = s_[tag + 1];
    add_data(stripped(tag, kind == '{'));
    advance(tag);
    if (kind == '#') return comment();
    if (kind == '%') {
      if (const size_t body = raw_begin(tag); body != kNone) return raw(body);
    }
    const size_t inside = at(tag + 2) == '-' || at(tag + 2) == '+' ? tag + 3 : tag + 2;
    add(kind == '{' ? Tok::kVariableBegin : Tok::kBlockBegin, s_.substr(tag, 2));
    advance(inside);
    return tag_tokens(kind == '{');
  }

  Status comment() {
    const size_t inside = at(pos_ + 2) == '-' || at(pos_ + 2) == '+' ? pos_ + 3 : pos_ + 2;
    for (size_t i = inside; (i = s_.find('#', i)) != kNone; ++i) {
      if (at(i + 1) != '}') continue;
      const size_t sign = i > inside && (s_[i - 1] == '-' || s_[i - 1] == '+') ? i - 1 : i;
      advance(tag_end(sign, "#}"));
      return OkStatus();
    }
    return syntax_error(line_, "Missing end of comment tag");
  }

  Status raw(size_t body) {
    advance(body);
    for (size_t i = body; (i = s_.find("{%", i)) != kNone; ++i) {
      const size_t end = raw_end(i);
      if (end == kNone) continue;
      add_data(stripped(i, false));
      advance(end);
      return OkStatus();
    }
    return syntax_error(line_, "Missing end of raw directive");
  }

  // Everything between {{ or {% and its end.
  Status tag_tokens(bool variable) {
    std::string open;  // brackets that wait to be closed
    for (;;) {
      if (open.empty()) {
        const size_t end = variable ? variable_end() : tag_end(pos_, "%}");
        if (end != kNone) {
          add(variable ? Tok::kVariableEnd : Tok::kBlockEnd, variable ? "}}" : "%}");
          advance(end);
          return OkStatus();
        }
      }
      if (pos_ >= s_.size()) return OkStatus();  // the parser says what is missing
      PONDER_RETURN_IF_ERROR(check_count());
      if (const size_t p = skip_space(pos_); p != pos_) {
        advance(p);
        continue;
      }
      const char c = s_[pos_];
      if (is_digit(c)) {
        PONDER_RETURN_IF_ERROR(number());
      } else if (c == '"' || c == '\'') {
        PONDER_RETURN_IF_ERROR(string());
      } else if (!name()) {
        PONDER_RETURN_IF_ERROR(operator_token(open));
      }
    }
  }

  Status check_count() const {
    if (tokens_.size() <= kMaxTokens) return OkStatus();
    return syntax_error(line_, absl::StrCat("the template has more than ", kMaxTokens, " tokens"));
  }

  size_t variable_end() const {
    if (has(pos_, "-}}")) return skip_space(pos_ + 3);
    return has(pos_, "}}") ? pos_ + 2 : kNone;
  }

  bool name() {
    const char* p = s_.data() + pos_;
    const char* const end = s_.data() + s_.size();
    while (p != end) {
      const char* q = p;
      const char32_t c = next_code_point(q);
      if (c != '_' && (char_classes(c) & (kAlnum | kIdent)) == 0) break;
      p = q;
    }
    const size_t to = static_cast<size_t>(p - s_.data());
    if (to == pos_) return false;
    add(Tok::kName, s_.substr(pos_, to - pos_));
    advance(to);
    return true;
  }

  // Digits with single underscores between them, from `i`; the end.
  size_t digits(size_t i) const {
    while (is_digit(at(i)) || (at(i) == '_' && is_digit(at(i + 1)))) ++i;
    return i;
  }

  Status number() {
    const size_t start = pos_;
    size_t end = digits(start);
    bool is_float = false;
    if (start == 0 || s_[start - 1] != '.') {  // "x.0.1" is two subscripts
      size_t p = end;
      if (at(p) == '.' && is_digit(at(p + 1))) p = digits(p + 1), is_float = true;
      size_t e = p;
      if (at(e) == 'e' || at(e) == 'E') {
        ++e;
        if (at(e) == '+' || at(e) == '-') ++e;
        if (is_digit(at(e))) p = digits(e), is_float = true;
      }
      if (is_float) end = p;
    }
    if (is_float) return add_float(start, end);
    int base = 10;
    const char prefix = static_cast<char>(at(start + 1) | 0x20);
    if (s_[start] == '0' && (prefix == 'b' || prefix == 'o' || prefix == 'x')) {
      const int wanted = prefix == 'b' ? 2 : prefix == 'o' ? 8 : 16;
      const auto fits = [&](char c) { return is_hex(c) && hex_value(c) < wanted; };
      size_t p = start + 2;
      while (fits(at(p)) || (at(p) == '_' && fits(at(p + 1)))) ++p;
      if (p > start + 2) base = wanted, end = p;
    }
    if (base == 10 && s_[start] == '0') {  // only zeros may follow a zero
      end = start + 1;
      while (at(end) == '0' || (at(end) == '_' && at(end + 1) == '0')) ++end;
    }
    return add_integer(start, end, base);
  }

  std::string without_underscores(size_t start, size_t end) const {
    std::string text;
    for (size_t i = start; i < end; ++i) {
      if (s_[i] != '_') text.push_back(s_[i]);
    }
    return text;
  }

  Status add_float(size_t start, size_t end) {
    const std::string text = without_underscores(start, end);
    add(Tok::kFloat, text);
    parse_float(text, tokens_.back().number);  // too large is infinite, as in Python
    advance(end);
    return OkStatus();
  }

  Status add_integer(size_t start, size_t end, int base) {
    const std::string text = without_underscores(base == 10 ? start : start + 2, end);
    add(Tok::kInteger, text);
    const auto [p, ec] =
        std::from_chars(text.data(), text.data() + text.size(), tokens_.back().integer, base);
    if (ec != std::errc() || p != text.data() + text.size()) {
      return syntax_error(line_, absl::StrCat("the number ", text, " does not fit in 64 bits"));
    }
    advance(end);
    return OkStatus();
  }

  Status string() {
    const char quote = s_[pos_];
    size_t end = pos_ + 1;
    while (end < s_.size() && s_[end] != quote) end += s_[end] == '\\' ? 2 : 1;
    if (end >= s_.size()) {
      return syntax_error(line_, absl::StrCat("unexpected char ", quote == '"' ? "'\"'" : "\"'\"",
                                              ": the string is not closed"));
    }
    std::string text;
    PONDER_RETURN_IF_ERROR(unescape(s_.substr(pos_ + 1, end - pos_ - 1), text));
    add(Tok::kString, text);
    advance(end + 1);
    return OkStatus();
  }

  // Python's escapes.
  Status unescape(absl::string_view raw, std::string& out) const {
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\') {
        out.push_back(raw[i]);
        continue;
      }
      const char c = raw[++i];  // a backslash is never the last: the quote would be escaped
      switch (c) {
        case '\n':
          break;
        case '\\':
        case '\'':
        case '"':
          out.push_back(c);
          break;
        case 'a':
          out.push_back('\a');
          break;
        case 'b':
          out.push_back('\b');
          break;
        case 'f':
          out.push_back('\f');
          break;
        case 'n':
          out.push_back('\n');
          break;
        case 'r':
          out.push_back('\r');
          break;
        case 't':
          out.push_back('\t');
          break;
        case 'v':
          out.push_back('\v');
          break;
        case 'x':
        case 'u':
        case 'U': {
          const size_t wanted = c == 'x' ? 2 : c == 'u' ? 4 : 8;
          uint32_t code = 0;
          size_t n = 0;
          while (n < wanted && i + 1 < raw.size() && is_hex(raw[i + 1])) {
            code = code * 16 + static_cast<uint32_t>(hex_value(raw[++i])), ++n;
          }
          if (n != wanted) return syntax_error(line_, "truncated escape in a string");
          if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
            return syntax_error(line_, "an escape in a string is no Unicode character");
          }
          append_utf8(out, code);
          break;
        }
        case '0':
        case '1':
        case '2':
        case '3':
        case '4':
        case '5':
        case '6':
        case '7': {
          uint32_t code = static_cast<uint32_t>(c - '0');
          for (int n = 1; n < 3 && i + 1 < raw.size() && raw[i + 1] >= '0' && raw[i + 1] <= '7';
               ++n) {
            code = code * 8 + static_cast<uint32_t>(raw[++i] - '0');
          }
          append_utf8(out, code);
          break;
        }
        case 'N':
          return syntax_error(line_, "\\N{...} in a string is not supported: write the character");
        default:
          out.push_back('\\');
          out.push_back(c);
      }
    }
    return OkStatus();
  }

  Status operator_token(std::string& open) {
    for (const Operator& op : kOperators) {
      if (!has(pos_, op.text)) continue;
      const char c = op.text[0];
      if (c == '(' || c == '[' || c == '{') {
        open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
      } else if (c == ')' || c == ']' || c == '}') {
        if (open.empty()) return syntax_error(line_, absl::StrCat("unexpected '", op.text, "'"));
        if (open.back() != c) {
          return syntax_error(line_, absl::StrCat("unexpected '", op.text, "', expected '",
                                                  absl::string_view(&open.back(), 1), "'"));
        }
        open.pop_back();
      }
      add(op.type, op.text);
      advance(pos_ + op.text.size());
      return OkStatus();
    }
    return syntax_error(
        line_, absl::StrCat("unexpected char '", s_.substr(pos_, utf8_size(s_[pos_])), "'"));
  }

  const std::string normalised_;
  absl::string_view s_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

Status syntax_error(int line, absl::string_view message) {
  return corrupt_error("line ", line, ": ", message);
}

StatusOr<std::vector<Token>> tokenize(absl::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return corrupt_error("the template has ", source.size(), " bytes; the limit is ",
                         kMaxSourceBytes);
  }
  return Lexer(source).run();
}

}  // namespace ponder::jinja
