#include "lib/text/jinja_parser.h"

#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/text/jinja_lexer.h"

namespace ponder::jinja {
namespace {

using Words = std::initializer_list<absl::string_view>;

std::string describe(const Token& token) {
  switch (token.type) {
    case Tok::kEof:
      return "end of template";
    case Tok::kVariableBegin:
      return "begin of print statement";
    case Tok::kVariableEnd:
      return "end of print statement";
    case Tok::kBlockBegin:
      return "begin of statement block";
    case Tok::kBlockEnd:
      return "end of statement block";
    case Tok::kData:
      return "template data / text";
    case Tok::kString:
      return "string";
    default:
      return absl::StrCat("'", token.text, "'");
  }
}

// Failure is a null node and the status set; every caller passes null on.
class Parser {
 public:
  explicit Parser(std::vector<Token> tokens)
      : tokens_(std::move(tokens)), ast_(std::make_unique<Ast>()) {}

  StatusOr<std::unique_ptr<Ast>> run() {
    body({}, ast_->body);
    PONDER_RETURN_IF_ERROR(status_);
    return std::move(ast_);
  }

 private:
  // One level of nesting, for the time of a scope.
  class Level {
   public:
    explicit Level(Parser& p) : p_(p), entered_(++p.depth_ <= kMaxNesting) {
      if (!entered_) p.fail(absl::StrCat("nested deeper than ", kMaxNesting, " levels"));
    }
    ~Level() { --p_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    explicit operator bool() const { return entered_; }

   private:
    Parser& p_;
    bool entered_;
  };

  // ---- the token stream

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(Tok type) const { return now().type == type; }
  bool is_word(absl::string_view word) const { return is(Tok::kName) && now().text == word; }
  bool is_any(Words words) const {
    for (const absl::string_view word : words) {
      if (is_word(word)) return true;
    }
    return false;
  }
  bool skip(Tok type) { return is(type) ? (next(), true) : false; }
  bool skip_word(absl::string_view word) { return is_word(word) ? (next(), true) : false; }
  bool expect(Tok type, absl::string_view what) {
    if (skip(type)) return true;
    fail(absl::StrCat("expected ", what, ", got ", describe(now())));
    return false;
  }
  std::string expect_name() {
    if (is(Tok::kName)) return std::move(next().text);
    fail(absl::StrCat("expected a name, got ", describe(now())));
    return "";
  }

  bool ok() const { return status_.ok(); }
  Node* fail(absl::string_view message, int line = 0) {
    if (status_.ok()) status_ = syntax_error(line != 0 ? line : now().line, message);
    return nullptr;
  }
  Node* make(Kind kind, int line) { return ast_->make(kind, line); }

  // ---- statements

  // Nodes until one of the tags in `ends` (the current token then is its name) or the end of the
  // template, which is right only if `ends` is empty.
  bool body(Words ends, std::vector<Node*>& out) {
    const Level level(*this);
    if (!level) return false;
    while (ok()) {
      const int line = now().line;
      if (is(Tok::kData)) {
        Node* node = make(Kind::kData, line);
        node->name = std::move(next().text);
        out.push_back(node);
      } else if (skip(Tok::kVariableBegin)) {
        Node* node = make(Kind::kOutput, line);
        node->args.push_back(tuple());
        out.push_back(node);
        expect(Tok::kVariableEnd, "end of print statement");
      } else if (skip(Tok::kBlockBegin)) {
        if (is_any(ends)) return true;
        if (Node* node = statement(ends)) out.push_back(node);
        if (ok()) expect(Tok::kBlockEnd, "end of statement block");
      } else if (is(Tok::kEof)) {
        if (ends.size() == 0) return true;
        fail(absl::StrCat("unexpected end of template; looking for ", list(ends)));
      } else {
        fail(absl::StrCat("unexpected ", describe(now())));
      }
    }
    return false;
  }

  // The rest of a tag, a body, and its end tag whose name is left as the current token.
  bool block(Words ends, std::vector<Node*>& out) {
    skip(Tok::kColon);  // as in Python
    return expect(Tok::kBlockEnd, "end of statement block") && body(ends, out);
  }
  // As block(), for a single end tag, whose name is skipped.
  bool closed_block(absl::string_view end, std::vector<Node*>& out) {
    if (!block({end}, out)) return false;
    next();
    return true;
  }

  static std::string list(Words words) {
    std::string out;
    for (const absl::string_view word : words)
      absl::StrAppend(&out, out.empty() ? "" : " or ", word);
    return out;
  }

  Node* statement(Words ends) {
    const int line = now().line;
    if (!is(Tok::kName)) return fail("tag name expected");
    const std::string tag = std::move(next().text);
    if (tag == "if") return if_statement(line);
    if (tag == "for") return for_statement(line);
    if (tag == "set") return set_statement(line);
    if (tag == "macro") return macro(line);
    if (tag == "call") return call_block(line);
    if (tag == "filter") return filter_block(line);
    if (tag == "with") return with(line);
    if (tag == "print") return print(line);
    if (tag == "block") return named_block(line);
    if (tag == "autoescape") return autoescape(line);
    if (tag == "break") return make(Kind::kBreak, line);
    if (tag == "continue") return make(Kind::kContinue, line);
    if (tag == "generation") {
      Node* node = make(Kind::kGeneration, line);
      return closed_block("endgeneration", node->body) ? node : nullptr;
    }
    if (tag == "include" || tag == "extends" || tag == "import" || tag == "from") {
      Node* node = make(Kind::kNoLoader, line);
      node->name = tag;
      while (!is(Tok::kBlockEnd) && !is(Tok::kEof)) next();
      return node;
    }
    return fail(ends.size() == 0
                    ? absl::StrCat("unknown tag '", tag, "'")
                    : absl::StrCat("unknown tag '", tag, "'; looking for ", list(ends)),
                line);
  }

  Node* if_statement(int line) {
    Node* const node = make(Kind::kIf, line);
    for (Node* branch = node;;) {
      branch->expr = tuple({}, /*with_cond=*/false);
      if (!ok() || !block({"elif", "else", "endif"}, branch->body)) return nullptr;
      const Token& token = next();
      if (token.text == "elif") {
        branch = make(Kind::kIf, token.line);
        node->branches.push_back(branch);
        continue;
      }
      if (token.text == "else" && !closed_block("endif", node->else_body)) return nullptr;
      return node;
    }
  }

  Node* for_statement(int line) {
    Node* const node = make(Kind::kFor, line);
    node->target = target(/*with_namespace=*/false, {"in"});
    if (!ok()) return nullptr;
    if (!skip_word("in")) return fail(absl::StrCat("expected 'in', got ", describe(now())));
    node->expr = tuple({"recursive"}, /*with_cond=*/false);
    if (skip_word("if")) node->test = expression();
    node->recursive = skip_word("recursive");
    if (!ok() || !block({"endfor", "else"}, node->body)) return nullptr;
    if (next().text == "else" && !closed_block("endfor", node->else_body)) return nullptr;
    return node;
  }

  Node* set_statement(int line) {
    Node* const where = target(/*with_namespace=*/true, {});
    if (!ok()) return nullptr;
    if (skip(Tok::kAssign)) {
      Node* const node = make(Kind::kSet, line);
      node->target = where;
      node->expr = tuple();
      return node;
    }
    Node* const node = make(Kind::kSetBlock, line);
    node->target = where;
    node->expr = filters(nullptr);
    return ok() && closed_block("endset", node->body) ? node : nullptr;
  }

  Node* macro(int line) {
    Node* const node = make(Kind::kMacro, line);
    node->name = expect_name();
    return ok() && signature(node) && closed_block("endmacro", node->body) ? node : nullptr;
  }

  Node* call_block(int line) {
    Node* const node = make(Kind::kCallBlock, line);
    if (is(Tok::kLParen) && !signature(node)) return nullptr;
    node->expr = expression();
    if (!ok()) return nullptr;
    if (node->expr->kind != Kind::kCall) return fail("expected call", line);
    return closed_block("endcall", node->body) ? node : nullptr;
  }

  bool signature(Node* node) {
    if (!expect(Tok::kLParen, "'('")) return false;
    while (ok() && !is(Tok::kRParen)) {
      if (!node->params.empty() && !expect(Tok::kComma, "','")) return false;
      Node* const param = make(Kind::kName, now().line);
      param->role = Role::kParam;
      param->name = expect_name();
      for (const Node* other : node->params) {
        if (other->name == param->name) {
          fail(absl::StrCat("duplicate argument '", param->name, "'"));
        }
      }
      node->params.push_back(param);
      if (skip(Tok::kAssign)) {
        node->defaults.push_back(expression());
      } else if (!node->defaults.empty()) {
        fail("non-default argument follows default argument");
      }
    }
    return ok() && expect(Tok::kRParen, "')'");
  }

  Node* filter_block(int line) {
    Node* const node = make(Kind::kFilterBlock, line);
    node->expr = filters(nullptr, /*inline_start=*/true);
    return ok() && closed_block("endfilter", node->body) ? node : nullptr;
  }

  Node* with(int line) {
    Node* const node = make(Kind::kWith, line);
    while (ok() && !is(Tok::kBlockEnd)) {
      if (!node->targets.empty() && !expect(Tok::kComma, "','")) return nullptr;
      Node* const where = target(/*with_namespace=*/false, {});
      if (!ok() || !expect(Tok::kAssign, "'='")) return nullptr;
      set_role(where, Role::kParam);
      node->targets.push_back(where);
      node->args.push_back(expression());
    }
    return ok() && closed_block("endwith", node->body) ? node : nullptr;
  }

  Node* print(int line) {
    Node* const node = make(Kind::kOutput, line);
    while (ok() && !is(Tok::kBlockEnd)) {
      if (!node->args.empty() && !expect(Tok::kComma, "','")) return nullptr;
      node->args.push_back(expression());
    }
    return node;
  }

  Node* named_block(int line) {
    Node* const node = make(Kind::kBlock, line);
    node->name = expect_name();
    if (skip_word("scoped")) return fail("scoped blocks are not supported");
    skip_word("required");
    if (!ok() || !closed_block("endblock", node->body)) return nullptr;
    skip_word(node->name);
    return node;
  }

  Node* autoescape(int line) {
    const Node* const on = expression();
    if (!ok()) return nullptr;
    if (on->kind != Kind::kConst || on->constant.type != Constant::kBool || on->constant.i != 0) {
      return fail("autoescape can only be false", line);
    }
    Node* const node = make(Kind::kScope, line);
    return closed_block("endautoescape", node->body) ? node : nullptr;
  }

  // ---- assignment targets

  void set_role(Node* node, Role role) {
    node->role = role;
    for (Node* item : node->args) set_role(item, role);
  }

  bool assignable(const Node* node) const {
    if (node->kind == Kind::kTuple) {
      for (const Node* item : node->args) {
        if (!assignable(item)) return false;
      }
      return true;
    }
    return node->kind == Kind::kName || node->kind == Kind::kNsRef;
  }

  Node* target(bool with_namespace, Words ends) {
    const int line = now().line;
    Node* node = nullptr;
    std::vector<Node*> items;
    bool is_tuple = false;
    while (ok()) {
      if (!items.empty() && !expect(Tok::kComma, "','")) return nullptr;
      if (tuple_ends(ends)) break;
      items.push_back(primary(with_namespace));
      if (!is(Tok::kComma)) break;
      is_tuple = true;
    }
    if (!ok()) return nullptr;
    if (is_tuple) {
      node = make(Kind::kTuple, line);
      node->args = std::move(items);
    } else if (!items.empty()) {
      node = items[0];
    } else {
      return fail(absl::StrCat("expected a name to assign to, got ", describe(now())));
    }
    if (!assignable(node)) return fail("can't assign to this expression", line);
    set_role(node, Role::kStore);
    return node;
  }

  // ---- expressions

  bool tuple_ends(Words ends) const {
    return is(Tok::kVariableEnd) || is(Tok::kBlockEnd) || is(Tok::kRParen) || is_any(ends);
  }

  // An expression, or a tuple where there is a comma.
  Node* tuple(Words ends = {}, bool with_cond = true, bool in_parentheses = false) {
    const int line = now().line;
    std::vector<Node*> items;
    bool is_tuple = false;
    while (ok()) {
      if (!items.empty() && !expect(Tok::kComma, "','")) return nullptr;
      if (tuple_ends(ends)) break;
      items.push_back(with_cond ? expression() : or_expression());
      if (!is(Tok::kComma)) break;
      is_tuple = true;
    }
    if (!ok()) return nullptr;
    if (!is_tuple) {
      if (!items.empty()) return items[0];
      if (!in_parentheses) {
        return fail(absl::StrCat("expected an expression, got ", describe(now())));
      }
    }
    Node* const node = make(Kind::kTuple, line);
    node->args = std::move(items);
    return node;
  }

  Node* expression() {
    const Level level(*this);
    if (!level) return nullptr;
    int line = now().line;
    Node* value = or_expression();
    while (ok() && skip_word("if")) {
      Node* const node = make(Kind::kCond, line);
      node->expr = or_expression();
      Node* otherwise = nullptr;
      if (ok() && skip_word("else")) otherwise = expression();
      node->args = {value, otherwise};
      value = node;
      line = now().line;
    }
    return ok() ? value : nullptr;
  }

  Node* logical(Kind kind, absl::string_view word, Node* (Parser::*operand)()) {
    Node* left = (this->*operand)();
    while (ok() && is_word(word)) {
      Node* const node = make(kind, next().line);
      node->expr = left;
      node->args.push_back((this->*operand)());
      left = node;
    }
    return left;
  }
  Node* or_expression() { return logical(Kind::kOr, "or", &Parser::and_expression); }
  Node* and_expression() { return logical(Kind::kAnd, "and", &Parser::not_expression); }

  Node* not_expression() {
    std::vector<int> lines;
    while (is_word("not")) lines.push_back(next().line);
    return wrap(Op::kNot, lines, compare());
  }

  // `node` under one unary operator per line, the last line innermost.
  Node* wrap(Op op, const std::vector<int>& lines, Node* node) {
    for (size_t i = lines.size(); ok() && i-- > 0;) {
      Node* const outer = make(Kind::kUnary, lines[i]);
      outer->op = op;
      outer->expr = node;
      node = outer;
    }
    return node;
  }

  bool comparison(Op& op) {
    switch (now().type) {
      case Tok::kEq:
        op = Op::kEq;
        break;
      case Tok::kNe:
        op = Op::kNe;
        break;
      case Tok::kLt:
        op = Op::kLt;
        break;
      case Tok::kLtEq:
        op = Op::kLe;
        break;
      case Tok::kGt:
        op = Op::kGt;
        break;
      case Tok::kGtEq:
        op = Op::kGe;
        break;
      case Tok::kName:
        if (is_word("in")) {
          op = Op::kIn;
          break;
        }
        if (!is_word("not") || ahead().type != Tok::kName || ahead().text != "in") return false;
        next();
        op = Op::kNotIn;
        break;
      default:
        return false;
    }
    next();
    return true;
  }

  Node* compare() {
    const int line = now().line;
    Node* const first = sum();
    Node* node = nullptr;
    Op op;
    while (ok() && comparison(op)) {
      if (node == nullptr) {
        node = make(Kind::kCompare, line);
        node->expr = first;
      }
      node->ops.push_back(op);
      node->args.push_back(sum());
    }
    return node != nullptr ? node : first;
  }

  Node* binary(Op op, Node* left, Node* (Parser::*operand)()) {
    Node* const node = make(Kind::kBinary, next().line);
    node->op = op;
    node->expr = left;
    node->args.push_back((this->*operand)());
    return node;
  }

  Node* sum() {
    Node* left = concat();
    while (ok() && (is(Tok::kAdd) || is(Tok::kSub))) {
      left = binary(is(Tok::kAdd) ? Op::kAdd : Op::kSub, left, &Parser::concat);
    }
    return left;
  }

  Node* concat() {
    const int line = now().line;
    Node* const first = product();
    if (!is(Tok::kTilde)) return first;
    Node* const node = make(Kind::kConcat, line);
    node->args.push_back(first);
    while (ok() && skip(Tok::kTilde)) node->args.push_back(product());
    return node;
  }

  Node* product() {
    Node* left = power();
    for (;;) {
      if (!ok()) return nullptr;
      if (is(Tok::kMul)) {
        left = binary(Op::kMul, left, &Parser::power);
      } else if (is(Tok::kDiv)) {
        left = binary(Op::kDiv, left, &Parser::power);
      } else if (is(Tok::kFloorDiv)) {
        left = binary(Op::kFloorDiv, left, &Parser::power);
      } else if (is(Tok::kMod)) {
        left = binary(Op::kMod, left, &Parser::power);
      } else {
        return left;
      }
    }
  }

  Node* power() {  // from left to right, unlike Python
    Node* left = unary();
    while (ok() && is(Tok::kPow)) left = binary(Op::kPow, left, &Parser::unary);
    return left;
  }

  Node* unary() {
    std::vector<std::pair<Op, int>> signs;
    while (is(Tok::kSub) || is(Tok::kAdd)) {
      const Op op = is(Tok::kSub) ? Op::kNeg : Op::kPos;
      signs.emplace_back(op, next().line);
    }
    Node* node = primary(false);
    if (ok()) node = postfix(node);
    while (ok() && !signs.empty()) {
      node = wrap(signs.back().first, {signs.back().second}, node);
      signs.pop_back();
      if (ok()) node = postfix(node);  // "-(x).y" has taken its attributes already
    }
    return ok() ? filter_expression(node) : nullptr;
  }

  Node* primary(bool with_namespace) {
    const int line = now().line;
    switch (now().type) {
      case Tok::kName:
        return name(with_namespace);
      case Tok::kString: {
        Node* const node = make(Kind::kConst, line);
        node->constant.type = Constant::kStr;
        while (is(Tok::kString)) node->constant.s += next().text;
        return node;
      }
      case Tok::kInteger: {
        Node* const node = make(Kind::kConst, line);
        node->constant.type = Constant::kInt;
        node->constant.i = next().integer;
        return node;
      }
      case Tok::kFloat: {
        Node* const node = make(Kind::kConst, line);
        node->constant.type = Constant::kFloat;
        node->constant.f = next().number;
        return node;
      }
      case Tok::kLParen: {
        next();
        Node* const node = tuple({}, true, /*in_parentheses=*/true);
        return ok() && expect(Tok::kRParen, "')'") ? node : nullptr;
      }
      case Tok::kLBracket:
        return list_literal(line);
      case Tok::kLBrace:
        return dict_literal(line);
      default:
        return fail(absl::StrCat("unexpected ", describe(now())));
    }
  }

  Node* name(bool with_namespace) {
    const int line = now().line;
    const std::string text = std::move(next().text);
    if (text == "true" || text == "True" || text == "false" || text == "False") {
      Node* const node = make(Kind::kConst, line);
      node->constant.type = Constant::kBool;
      node->constant.i = text[0] == 't' || text[0] == 'T';
      return node;
    }
    if (text == "none" || text == "None") return make(Kind::kConst, line);
    const bool reference = with_namespace && is(Tok::kDot);
    Node* const node = make(reference ? Kind::kNsRef : Kind::kName, line);
    node->name = text;
    if (reference) {
      next();
      node->attribute = expect_name();
    }
    return node;
  }

  Node* list_literal(int line) {
    next();
    Node* const node = make(Kind::kList, line);
    while (ok() && !is(Tok::kRBracket)) {
      if (!node->args.empty() && !expect(Tok::kComma, "','")) return nullptr;
      if (is(Tok::kRBracket)) break;
      node->args.push_back(expression());
    }
    return ok() && expect(Tok::kRBracket, "']'") ? node : nullptr;
  }

  Node* dict_literal(int line) {
    next();
    Node* const node = make(Kind::kDict, line);
    while (ok() && !is(Tok::kRBrace)) {
      if (!node->args.empty() && !expect(Tok::kComma, "','")) return nullptr;
      if (is(Tok::kRBrace)) break;
      node->args.push_back(expression());
      if (!ok() || !expect(Tok::kColon, "':'")) return nullptr;
      node->args.push_back(expression());
    }
    return ok() && expect(Tok::kRBrace, "'}'") ? node : nullptr;
  }

  Node* postfix(Node* node) {
    while (ok()) {
      if (is(Tok::kDot)) {
        node = attribute(node);
      } else if (is(Tok::kLBracket)) {
        node = subscript(node);
      } else if (is(Tok::kLParen)) {
        node = call(node);
      } else {
        return node;
      }
    }
    return nullptr;
  }

  Node* filter_expression(Node* node) {
    while (ok()) {
      if (is(Tok::kPipe)) {
        node = filters(node);
      } else if (is_word("is")) {
        node = test(node);
      } else if (is(Tok::kLParen)) {
        node = call(node);
      } else {
        return node;
      }
    }
    return nullptr;
  }

  Node* attribute(Node* object) {
    const int line = next().line;
    if (is(Tok::kName)) {
      Node* const node = make(Kind::kGetAttr, line);
      node->expr = object;
      node->name = std::move(next().text);
      return node;
    }
    if (!is(Tok::kInteger)) return fail("expected name or number");
    Node* const node = make(Kind::kGetItem, line);
    Node* const index = make(Kind::kConst, line);
    index->constant.type = Constant::kInt;
    index->constant.i = next().integer;
    node->expr = object;
    node->args.push_back(index);
    return node;
  }

  Node* subscript(Node* object) {
    const int line = next().line;
    std::vector<Node*> items;
    while (ok() && !is(Tok::kRBracket)) {
      if (!items.empty() && !expect(Tok::kComma, "','")) return nullptr;
      items.push_back(subscribed());
    }
    if (!ok() || !expect(Tok::kRBracket, "']'")) return nullptr;
    if (items.size() == 1 && items[0]->kind == Kind::kSlice && items[0]->expr == nullptr) {
      items[0]->expr = object;
      return items[0];
    }
    for (const Node* item : items) {
      if (item->kind == Kind::kSlice && item->expr == nullptr) {
        return fail("a slice must be the only subscript", line);
      }
    }
    Node* const node = make(Kind::kGetItem, line);
    node->expr = object;
    if (items.size() != 1) {
      Node* const index = make(Kind::kTuple, line);
      index->args = std::move(items);
      items = {index};
    }
    node->args = std::move(items);
    return node;
  }

  // An index, or a slice that has no object yet.
  Node* subscribed() {
    const int line = now().line;
    Node* start = nullptr;
    if (!is(Tok::kColon)) {
      start = expression();
      if (!ok() || !is(Tok::kColon)) return start;
    }
    next();
    Node* const node = make(Kind::kSlice, line);
    node->args = {start, nullptr, nullptr};
    const auto bound = [this] {
      return !is(Tok::kColon) && !is(Tok::kRBracket) && !is(Tok::kComma);
    };
    if (bound()) node->args[1] = expression();
    if (ok() && skip(Tok::kColon) && bound()) node->args[2] = expression();
    return ok() ? node : nullptr;
  }

  bool arguments(Node* node) {
    const int line = next().line;
    bool comma = false;
    const auto invalid = [&] {
      fail("invalid syntax for function call expression", line);
      return false;
    };
    while (ok() && !is(Tok::kRParen)) {
      if (comma) {
        if (!expect(Tok::kComma, "','")) return false;
        if (is(Tok::kRParen)) break;
      }
      comma = true;
      if (is(Tok::kMul)) {
        if (node->dyn_args != nullptr || node->dyn_kwargs != nullptr) return invalid();
        next();
        node->dyn_args = expression();
      } else if (is(Tok::kPow)) {
        if (node->dyn_kwargs != nullptr) return invalid();
        next();
        node->dyn_kwargs = expression();
      } else if (is(Tok::kName) && ahead().type == Tok::kAssign) {
        if (node->dyn_kwargs != nullptr) return invalid();
        std::string key = std::move(next().text);
        next();
        for (const auto& [other, value] : node->kwargs) {
          if (other == key) {
            fail(absl::StrCat("keyword argument repeated: ", key), line);
            return false;
          }
        }
        node->kwargs.emplace_back(std::move(key), expression());
      } else {
        if (node->dyn_args != nullptr || node->dyn_kwargs != nullptr || !node->kwargs.empty()) {
          return invalid();
        }
        node->args.push_back(expression());
      }
    }
    return ok() && expect(Tok::kRParen, "')'");
  }

  Node* call(Node* callee) {
    Node* const node = make(Kind::kCall, now().line);
    node->expr = callee;
    return arguments(node) ? node : nullptr;
  }

  std::string dotted_name() {
    std::string name = expect_name();
    while (ok() && skip(Tok::kDot)) absl::StrAppend(&name, ".", expect_name());
    return name;
  }

  // A chain of filters on `node`, which is null for the text of a block.
  Node* filters(Node* node, bool inline_start = false) {
    while (ok() && (inline_start || is(Tok::kPipe))) {
      if (!inline_start) next();
      inline_start = false;
      Node* const filter = make(Kind::kFilter, now().line);
      filter->name = dotted_name();
      filter->expr = node;
      if (ok() && is(Tok::kLParen) && !arguments(filter)) return nullptr;
      node = filter;
    }
    return ok() ? node : nullptr;
  }

  Node* test(Node* operand) {
    const int line = next().line;
    const bool negated = skip_word("not");
    Node* node = make(Kind::kTest, line);
    node->name = dotted_name();
    node->expr = operand;
    if (!ok()) return nullptr;
    switch (now().type) {
      case Tok::kLParen:
        if (!arguments(node)) return nullptr;
        break;
      case Tok::kName:
        if (is_any({"else", "or", "and"})) break;
        if (is_word("is")) return fail("You cannot chain multiple tests with is");
        [[fallthrough]];
      case Tok::kString:
      case Tok::kInteger:
      case Tok::kFloat:
      case Tok::kLBracket:
      case Tok::kLBrace: {
        Node* const argument = primary(false);
        node->args.push_back(ok() ? postfix(argument) : nullptr);
        break;
      }
      default:
        break;
    }
    if (!ok()) return nullptr;
    return negated ? wrap(Op::kNot, {line}, node) : node;
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  Status status_;
  std::unique_ptr<Ast> ast_;
};

}  // namespace

StatusOr<std::unique_ptr<Ast>> parse(absl::string_view source) {
  PONDER_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenize(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace ponder::jinja
