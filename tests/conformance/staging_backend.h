// Lets tests hand host memory to the ops of a device with memory of its own: what an op reads is
// copied there before, what it wrote is copied back behind it. Caches are the device's memory from
// the start (Machine::unwritten).
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "lib/device/forwarding_backend.h"

namespace ponder {

class StagingBackend final : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  Status embed(const EmbedParams& p) override { return run(&Backend::embed, p, &EmbedParams::out); }
  Status rms_norm(const RmsNormParams& p) override {
    return run(&Backend::rms_norm, p, &RmsNormParams::x, &RmsNormParams::weight,
               &RmsNormParams::out);
  }
  Status linear(const LinearParams& p) override {
    return run(&Backend::linear, p, &LinearParams::x, &LinearParams::bias, &LinearParams::out);
  }
  Status rope_table(const RopeTableParams& p) override {
    return run(&Backend::rope_table, p, &RopeTableParams::out);
  }
  Status rope(const RopeParams& p) override {
    return run(&Backend::rope, p, &RopeParams::x, &RopeParams::table);
  }
  Status swiglu(const SwigluParams& p) override {
    return run(&Backend::swiglu, p, &SwigluParams::gate_up, &SwigluParams::out);
  }
  Status add(const AddParams& p) override {
    return run(&Backend::add, p, &AddParams::a, &AddParams::b, &AddParams::out);
  }
  Status kv_write(const KvWriteParams& p) override {
    return run(&Backend::kv_write, p, &KvWriteParams::k, &KvWriteParams::v);
  }
  Status attention(const AttentionParams& p) override {
    return run(&Backend::attention, p, &AttentionParams::q, &AttentionParams::out);
  }
  Status gather_rows(const GatherRowsParams& p) override {
    return run(&Backend::gather_rows, p, &GatherRowsParams::x, &GatherRowsParams::out);
  }
  Status mla_write(const MlaWriteParams& p) override {
    return run(&Backend::mla_write, p, &MlaWriteParams::latent, &MlaWriteParams::k_rope);
  }
  Status mla_attention(const MlaAttentionParams& p) override {
    return run(&Backend::mla_attention, p, &MlaAttentionParams::q_nope, &MlaAttentionParams::q_rope,
               &MlaAttentionParams::out);
  }
  Status route(const RouteParams& p) override {
    return run(&Backend::route, p, &RouteParams::logits, &RouteParams::bias, &RouteParams::ids,
               &RouteParams::weights);
  }
  Status experts(const ExpertsParams& p) override {
    return run(&Backend::experts, p, &ExpertsParams::x, &ExpertsParams::ids,
               &ExpertsParams::weights, &ExpertsParams::out);
  }
  Status digest_rows(const DigestRowsParams& p) override {
    return run(&Backend::digest_rows, p, &DigestRowsParams::logits);
  }

 private:
  // The op with all tensors on the device, inputs and outputs alike copied in and back out. Two
  // that begin at the same place are the same.
  template <typename Params, typename... Members>
  Status run(Status (Backend::*op)(const Params&), Params p, Members... members) {
    struct Copy {
      void* host;
      uint64_t bytes;
      Buffer device;
    };
    std::vector<Copy> copies;
    const auto stage = [&](Tensor& t) -> Status {
      if (t.rank == 0 || t.data == nullptr) return OkStatus();
      int64_t last = 0;
      for (int i = 0; i < t.rank; ++i) last += t.dim[i] > 0 ? (t.dim[i] - 1) * t.stride[i] : 0;
      const auto bytes = static_cast<uint64_t>(last + 1) * sizeof(float);
      for (Copy& c : copies) {
        if (c.host == t.data && c.bytes >= bytes) {
          t.data = c.device.data();
          return OkStatus();
        }
      }
      Copy made{t.data, bytes, {}};
      PONDER_ASSIGN_OR_RETURN(made.device, Buffer::create(to()->allocator(), bytes, "a tensor"));
      PONDER_RETURN_IF_ERROR(to()->upload(t.data, made.device.data(), bytes));
      t.data = made.device.data();
      copies.push_back(std::move(made));
      return OkStatus();
    };
    Status status;
    ((status.ok() ? void(status = stage(p.*members)) : void()), ...);
    PONDER_RETURN_IF_ERROR(status);
    status = (to()->*op)(p);
    for (Copy& c : copies) {
      PONDER_RETURN_IF_ERROR(to()->download(c.device.data(), c.host, c.bytes));
    }
    return status;
  }
};

}  // namespace ponder
