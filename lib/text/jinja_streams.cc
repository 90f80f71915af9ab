// Filters that are generators in Jinja: nothing happens until their items are asked for, each item
// is given once, and as a condition they are always true.

#include <algorithm>
#include <utility>

#include "lib/text/jinja_filters.h"
#include "lib/text/jinja_format.h"
#include "lib/text/jinja_ops.h"
#include "lib/text/jinja_unicode.h"

namespace ponder::jinja {
namespace {

// Takes its source apart when the first item is wanted.
class Stream : public Iter {
 public:
  explicit Stream(Value source) : source_(std::move(source)) {}

 protected:
  bool advance(Context& c, Value& item) final {
    const NativeScope scope(c);
    if (!scope || done_) return false;
    if (!iter_) {
      iter_ = start(c) ? iterate(c, source_) : Ref<Iter>();
      source_ = Value();
    }
    if (c.ok() && iter_ && c.work(1) && produce(c, item) && c.ok()) return true;
    done_ = true;
    iter_ = Ref<Iter>();
    return false;
  }

  // False where there is nothing to iterate over.
  virtual bool start(Context&) { return true; }
  virtual bool produce(Context& c, Value& item) = 0;
  bool from_source(Context& c, Value& item) { return iter_->next(c, item); }
  const Value& source() const { return source_; }

 private:
  Value source_;
  Ref<Iter> iter_;
  bool done_ = false;
};

Value stream(Context& c, Stream* object, const Value& source, const Args& args) {
  int inside = source.depth();
  for (const Value& v : args.positional) inside = std::max(inside, v.depth());
  for (const auto& [name, v] : args.named) inside = std::max(inside, v.depth());
  return c.adopt(Type::kIter, object, inside, sizeof(Stream) + sizeof(Args));
}

class MapStream final : public Stream {
 public:
  MapStream(Value source, Args args) : Stream(std::move(source)), args_(std::move(args)) {}

 private:
  bool start(Context& c) override {
    if (!truthy(source())) return false;
    const bool by_attribute =
        args_.positional.empty() &&
        std::any_of(args_.named.begin(), args_.named.end(),
                    [](const auto& named) { return named.first == "attribute"; });
    if (by_attribute) {
      Value bound[2];
      if (!bind_args(c, "map", args_, 0, {"attribute", "default"}, bound)) return false;
      default_ = bound[1];
      return AttributePath::parse(c, bound[0], path_);
    }
    if (args_.positional.empty()) {
      c.error("FilterArgumentError: map requires a filter argument");
      return false;
    }
    const Value wanted = args_.positional[0];
    filter_ = wanted.is_str() ? find_filter(wanted.text()) : -1;
    if (filter_ < 0) c.error("TemplateRuntimeError: No filter named by map's argument.");
    return filter_ >= 0;
  }

  bool produce(Context& c, Value& item) override {
    if (!from_source(c, item)) return false;
    if (filter_ < 0) {
      item = path_.get(c, item);
      const bool fill =
          c.ok() && item.is(Type::kUndefined) && !default_.missing() && !default_.is(Type::kNone);
      if (fill) item = default_;
      return c.ok();
    }
    Args args = args_;
    args.positional[0] = std::move(item);
    item = call_filter(c, filter_, args);
    return c.ok();
  }

  Args args_;
  AttributePath path_;
  Value default_;
  int filter_ = -1;
};

// select, reject, selectattr, rejectattr.
class SelectStream final : public Stream {
 public:
  SelectStream(Value source, Args args, bool keep, bool by_attribute)
      : Stream(std::move(source)),
        args_(std::move(args)),
        keep_(keep),
        by_attribute_(by_attribute) {}

 private:
  bool start(Context& c) override {
    if (!truthy(source())) return false;
    if (by_attribute_) {
      if (args_.positional.empty()) {
        c.error("FilterArgumentError: Missing parameter for attribute name");
        return false;
      }
      if (!AttributePath::parse(c, args_.positional[0], path_)) return false;
      args_.positional.erase(args_.positional.begin());
    }
    if (args_.positional.empty()) return true;
    const Value wanted = args_.positional[0];
    test_ = wanted.is_str() ? find_test(wanted.text()) : -1;
    if (test_ < 0) c.error("TemplateRuntimeError: No test named by select's argument.");
    return test_ >= 0;
  }

  bool produce(Context& c, Value& item) override {
    while (from_source(c, item)) {
      if (!c.work(1)) return false;
      Value subject = path_.get(c, item);
      if (!c.ok()) return false;
      bool passes = truthy(subject);
      if (test_ >= 0) {
        Args args = args_;
        args.positional[0] = std::move(subject);
        const Value result = call_test(c, test_, args);
        if (!c.ok()) return false;
        passes = truthy(result);
      }
      if (passes == keep_) return true;
    }
    return false;
  }

  Args args_;
  AttributePath path_;
  bool keep_, by_attribute_;
  int test_ = -1;
};

class UniqueStream final : public Stream {
 public:
  UniqueStream(Value source, AttributePath path, bool case_sensitive)
      : Stream(std::move(source)), path_(std::move(path)), case_sensitive_(case_sensitive) {}

 private:
  bool produce(Context& c, Value& item) override {
    while (from_source(c, item)) {
      Value key = path_.get(c, item);
      if (!c.ok()) return false;
      if (!case_sensitive_ && key.is_str()) {
        if (!c.room(key.text().size() * 3)) return false;
        key = c.str(to_lower(key.text()));
      }
      if (!c.ok() || !hashable(c, key) || !c.room((seen_.entries.size() + 1) * 64)) return false;
      if (seen_.find(key) >= 0) continue;
      seen_.set(std::move(key), Value::none());
      return true;
    }
    return false;
  }

  AttributePath path_;
  bool case_sensitive_;
  Dict seen_;
};

class BatchStream final : public Stream {
 public:
  BatchStream(Value source, int64_t size, Value fill)
      : Stream(std::move(source)), size_(size), fill_(std::move(fill)) {}

 private:
  bool produce(Context& c, Value& item) override {
    std::vector<Value> batch;
    while (batch.empty() || static_cast<int64_t>(batch.size()) != size_) {
      Value next;
      if (!from_source(c, next)) break;
      if (!c.work(1) || !c.room((batch.size() + 1) * sizeof(Value))) return false;
      batch.push_back(std::move(next));
    }
    if (!c.ok() || batch.empty()) return false;
    if (!fill_.missing() && !fill_.is(Type::kNone)) {
      while (static_cast<int64_t>(batch.size()) < size_) {
        if (!c.work(1) || !c.room((batch.size() + 1) * sizeof(Value))) return false;
        batch.push_back(fill_);
      }
    }
    item = c.list(std::move(batch));
    return c.ok();
  }

  int64_t size_;
  Value fill_;
};

Value batch(Context& c, Args& args) {
  Value a[3];
  int64_t size = 0;
  if (!bind_args(c, "batch", args, 2, {"value", "linecount", "fill_with"}, a) ||
      !to_index(c, a[1], size)) {
    return Value();
  }
  Args held;
  held.positional = {a[2]};
  return stream(c, new BatchStream(a[0], size, a[2]), a[0], held);
}

class SliceStream final : public Stream {
 public:
  SliceStream(Value source, int64_t slices, Value fill)
      : Stream(std::move(source)), slices_(slices), fill_(std::move(fill)) {}

 private:
  bool start(Context& c) override {
    if (!collect(c, source(), items_)) return false;
    if (slices_ != 0) return true;
    c.error("ZeroDivisionError: integer division or modulo by zero");
    return false;
  }

  bool produce(Context& c, Value& item) override {
    if (number_ >= slices_) return false;
    const auto size = static_cast<int64_t>(items_.size());
    const int64_t extra = size % slices_;
    const int64_t end = at_ + size / slices_ + (number_ < extra ? 1 : 0);
    std::vector<Value> slice(items_.begin() + at_, items_.begin() + end);
    if (!fill_.missing() && !fill_.is(Type::kNone) && number_ >= extra) slice.push_back(fill_);
    at_ = end;
    ++number_;
    item = c.list(std::move(slice));
    return c.ok();
  }

  std::vector<Value> items_;
  int64_t slices_, number_ = 0, at_ = 0;
  Value fill_;
};

Value slices(Context& c, Args& args) {
  Value a[3];
  int64_t n = 0;
  if (!bind_args(c, "slice", args, 2, {"value", "slices", "fill_with"}, a) ||
      !to_index(c, a[1], n)) {
    return Value();
  }
  Args held;
  held.positional = {a[2]};
  return stream(c, new SliceStream(a[0], n, a[2]), a[0], held);
}

Value unique(Context& c, Args& args) {
  Value a[3];
  AttributePath path;
  if (!bind_args(c, "unique", args, 1, {"value", "case_sensitive", "attribute"}, a) ||
      !AttributePath::parse(c, a[2], path)) {
    return Value();
  }
  const bool sensitive = !a[1].missing() && truthy(a[1]);
  return stream(c, new UniqueStream(a[0], std::move(path), sensitive), a[0], Args());
}

class ItemsStream final : public Stream {
 public:
  using Stream::Stream;

 private:
  bool start(Context& c) override {
    if (source().is(Type::kDict)) return true;
    if (!source().is(Type::kUndefined)) c.type_error("Can only get item pairs from a mapping.");
    return false;
  }
  bool produce(Context& c, Value& item) override {
    Value key;
    if (!from_source(c, key)) return false;
    item = c.tuple({key, get_item(c, dict_, key)});
    return c.ok();
  }

  Value dict_ = source();
};

Value items(Context& c, Args& args) {
  Value a[1];
  if (!bind_args(c, "items", args, 1, {"value"}, a)) return Value();
  return stream(c, new ItemsStream(a[0]), a[0], Args());
}

Value format(Context& c, Args& args) {
  Value text = args.positional.empty() ? Value() : to_str(c, args.positional[0]);
  if (!c.ok()) return Value();
  if (text.missing()) return c.type_error("format() missing required argument: 'value'");
  if (args.positional.size() > 1 && !args.named.empty()) {
    return c.error(
        "FilterArgumentError: can't handle positional and keyword arguments at the same "
        "time");
  }
  if (!args.named.empty()) {
    Ref<Dict> dict(new Dict);
    for (auto& [name, value] : args.named) {
      dict->set(c.str(absl::string_view(name)), std::move(value));
    }
    const Value named = c.dict(std::move(dict));
    return c.ok() ? percent_format(c, text.text(), named) : Value();
  }
  const Value values =
      c.tuple(std::vector<Value>(args.positional.begin() + 1, args.positional.end()));
  return c.ok() ? percent_format(c, text.text(), values) : Value();
}

}  // namespace

Value call_stream_filter(Context& c, absl::string_view name, Args& args) {
  if (name == "format") return format(c, args);
  if (name == "batch") return batch(c, args);
  if (name == "slice") return slices(c, args);
  if (name == "unique") return unique(c, args);
  if (name == "items") return items(c, args);
  if (args.positional.empty()) return c.type_error(name, "() missing its value");
  Value source = args.positional[0];
  Args rest;
  rest.positional.assign(args.positional.begin() + 1, args.positional.end());
  rest.named = std::move(args.named);
  if (name == "map") return stream(c, new MapStream(source, rest), source, rest);
  const bool keep = name == "select" || name == "selectattr";
  const bool by_attribute = name == "selectattr" || name == "rejectattr";
  return stream(c, new SelectStream(source, rest, keep, by_attribute), source, rest);
}

}  // namespace ponder::jinja
