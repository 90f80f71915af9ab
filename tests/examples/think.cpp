// The same in C++. Build: c++ think.cpp -lponder
// Run: ./a.out models/countdown "Use 3, 5 and 7 to make 22."
#include <ponder/ponder.hpp>

#include <iostream>

int main(int argc, char **argv) try {
  if (argc < 3) return 2;
  ponder::Runtime runtime;
  ponder::Model model = ponder::Model::load(runtime, argv[1]);
  ponder::Session session(model);
  ponder::Chat chat;
  chat.add_user(argv[2]);
  for (const ponder::Event &event :
       session.submit(ponder::Request().chat(chat).thought_budget(300, 400))) {
    if (event.kind() == PONDER_EVENT_THOUGHT)
      std::cout << "\033[2m" << event.text().str() << "\033[0m";
    if (event.kind() == PONDER_EVENT_THOUGHT_END) std::cout << "\n\n";
    if (event.kind() == PONDER_EVENT_ANSWER) std::cout << event.text().str();
  }
  std::cout << '\n';
} catch (const ponder::Error &error) {
  std::cerr << error.what() << '\n';
  return 1;
}
