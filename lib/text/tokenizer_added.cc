#include "lib/text/tokenizer_added.h"

#include <algorithm>

#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace ponder {
namespace {

// Bounds the walk at every position of a hostile text under a hostile vocabulary.
constexpr size_t kMaxTokenBytes = 1024;

const char* skip_space_back(const char* begin, const char* p) {
  while (p > begin) {
    const char* const before = previous_code_point(p);
    const char* read = before;
    if (!is_white_space(next_code_point(read))) break;
    p = before;
  }
  return p;
}

const char* skip_space(const char* p, const char* end) {
  while (p < end) {
    const char* next = p;
    if (!is_white_space(next_code_point(next))) break;
    p = next;
  }
  return p;
}

bool touches_word(const char* begin, const char* start, const char* stop, const char* end) {
  if (start > begin) {
    const char* p = previous_code_point(start);
    if (is_word_character(next_code_point(p))) return true;
  }
  return stop < end && is_word_character(next_code_point(stop));
}

}  // namespace

Status AddedTokenMatcher::add(absl::string_view text, int32_t id, Options options) {
  if (text.size() > kMaxTokenBytes) {
    return unsupported_error("added token ", id, " has ", text.size(), " bytes, more than ",
                             kMaxTokenBytes);
  }
  if (text.empty()) return OkStatus();
  uint32_t node = 0;
  for (const char c : text) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<uint8_t>(c);
    const auto [it, fresh] = children_.try_emplace(key, static_cast<uint32_t>(nodes_.size()));
    if (fresh) nodes_.emplace_back();
    node = it->second;
  }
  if (nodes_[node].token >= 0) return OkStatus();
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({id, options});
  starts_[static_cast<uint8_t>(text[0])] = true;
  return OkStatus();
}

void AddedTokenMatcher::cut(absl::string_view text, std::vector<Part>& parts) const {
  parts.clear();
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  const char* done = begin;  // everything before is in a part
  const char* p = begin;
  while (p < end) {
    if (!starts_[static_cast<uint8_t>(*p)]) {
      ++p;
      continue;
    }
    const Token* token = nullptr;
    const char* stop = p;
    uint32_t node = 0;
    for (const char* q = p; q < end; ++q) {
      const auto it = children_.find(uint64_t{node} << 8 | static_cast<uint8_t>(*q));
      if (it == children_.end()) break;
      node = it->second;
      if (nodes_[node].token >= 0) {
        token = &tokens_[static_cast<size_t>(nodes_[node].token)];
        stop = q + 1;
      }
    }
    if (token == nullptr) {
      ++p;
      continue;
    }
    const char* start = p;
    p = stop;  // whatever becomes of this match, the next one starts behind it
    if (token->options.single_word && touches_word(begin, start, stop, end)) continue;
    if (token->options.lstrip) start = std::max(skip_space_back(begin, start), done);
    if (token->options.rstrip) stop = skip_space(stop, end);
    const auto offset = [begin](const char* at) { return static_cast<size_t>(at - begin); };
    if (done < start) parts.push_back({offset(done), offset(start), -1});
    // A match may lie in the white space that the one before swallowed. It is a token all the same,
    // unless it wants the space on its left, too: then nothing is left of it.
    if (start < stop) parts.push_back({offset(start), offset(stop), token->id});
    done = std::max(done, stop);
  }
  if (done < end) parts.push_back({static_cast<size_t>(done - begin), text.size(), -1});
}

}  // namespace ponder
