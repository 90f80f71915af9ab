// Writes GGUF files for tests, right or wrong in any detail.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace ponder {

class GgufBuilder {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;                             // of the data; says nothing of the metadata
  int64_t claimed_tensors = -1, claimed_entries = -1;  // -1: the truth

  template <typename T>
  static std::string raw(T value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return bytes;
  }
  static std::string text(const std::string& s) { return raw<uint64_t>(s.size()) + s; }

  // An entry whose value is given as bytes.
  GgufBuilder& entry(const std::string& key, uint32_t type, const std::string& value) {
    metadata_ += text(key) + raw(type) + value;
    ++entries_;
    return *this;
  }
  GgufBuilder& u32(const std::string& key, uint32_t v) { return entry(key, 4, raw(v)); }
  GgufBuilder& i32(const std::string& key, int32_t v) { return entry(key, 5, raw(v)); }
  GgufBuilder& u16(const std::string& key, uint16_t v) { return entry(key, 2, raw(v)); }
  GgufBuilder& f32(const std::string& key, float v) { return entry(key, 6, raw(v)); }
  GgufBuilder& boolean(const std::string& key, bool v) {
    return entry(key, 7, raw(static_cast<uint8_t>(v)));
  }
  GgufBuilder& string(const std::string& key, const std::string& v) {
    return entry(key, 8, text(v));
  }
  GgufBuilder& strings(const std::string& key, const std::vector<std::string>& list) {
    std::string bytes = raw<uint32_t>(8) + raw<uint64_t>(list.size());
    for (const std::string& s : list) bytes += text(s);
    return entry(key, 9, bytes);
  }
  template <typename T>
  GgufBuilder& array(const std::string& key, uint32_t type, const std::vector<T>& list) {
    std::string bytes = raw(type) + raw<uint64_t>(list.size());
    for (T v : list) bytes += raw(v);
    return entry(key, 9, bytes);
  }

  // `dims` innermost first, as in the file. Data is placed behind what is there, aligned.
  GgufBuilder& tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                      const std::string& data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    info(name, dims, type, data_.size());
    data_ += data;
    return *this;
  }
  // A table entry alone.
  GgufBuilder& info(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                    uint64_t offset) {
    table_ += text(name) + raw(static_cast<uint32_t>(dims.size()));
    for (uint64_t d : dims) table_ += raw(d);
    table_ += raw(type) + raw(offset);
    ++tensors_;
    return *this;
  }

  std::string build() const {
    std::string file = "GGUF" + raw(version);
    file += raw<uint64_t>(claimed_tensors < 0 ? tensors_ : static_cast<uint64_t>(claimed_tensors));
    file += raw<uint64_t>(claimed_entries < 0 ? entries_ : static_cast<uint64_t>(claimed_entries));
    file += metadata_ + table_;
    if (!data_.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

 private:
  std::string metadata_, table_, data_;
  uint64_t entries_ = 0, tensors_ = 0;
};

}  // namespace ponder
