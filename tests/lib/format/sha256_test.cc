#include "lib/format/sha256.h"

#include <string>

#include "gtest/gtest.h"

namespace ponder {
namespace {

std::string hash(const std::string& text) {
  Sha256 sha;
  sha.update(text);
  return sha.finish();
}

// The examples of FIPS 180-4, and the empty text.
TEST(Sha256, AgreesWithTheStandardsExamples) {
  EXPECT_EQ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", hash(""));
  EXPECT_EQ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", hash("abc"));
  EXPECT_EQ("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"));
  EXPECT_EQ("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
            hash(std::string(1'000'000, 'a')));
}

TEST(Sha256, DoesNotCareHowTheInputIsCut) {
  const std::string text(300, 'q');
  for (size_t cut = 0; cut <= text.size(); cut += 7) {
    Sha256 sha;
    sha.update(text.substr(0, cut));
    sha.update("");
    sha.update(text.substr(cut));
    EXPECT_EQ(hash(text), sha.finish()) << cut;
  }
}

}  // namespace
}  // namespace ponder
