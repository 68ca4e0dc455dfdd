#include "lib/base/options.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "lib/base/release.h"

namespace slipway {

Options::Options(const std::string& description, const std::string& program) : app_(description, program) {
  app_.set_version_flag("--version", program + " " + std::string(kRelease));
  app_.set_config("--config", "", "Read settings from this TOML file");
}

std::optional<int> Options::parse(int argc, char** argv) {
  // CLI11 would let the file win over the environment, so the environment goes in as flags before the real ones.
  std::vector<std::string> arguments;
  for (const std::string& name : names_) {
    std::string variable = "SLIPWAY_" + name;
    std::ranges::transform(variable, variable.begin(),
                           [](char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
    const std::string flag = "--" + name;
    const bool given = std::any_of(argv + 1, argv + argc, [&](const char* argument) {
      return argument == flag || std::string_view(argument).starts_with(flag + "=");
    });
    // CLI11 would take the next flag for the value of one that is empty.
    if (const char* value = std::getenv(variable.c_str()); value != nullptr && *value != '\0' && !given) {
      arguments.push_back(flag + "=" + value);
    }
  }
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  std::ranges::reverse(arguments);  // CLI11 takes them from the back
  try {
    app_.parse(arguments);
  } catch (const CLI::RequiredError& error) {
    // A misspelt command is also a missing one, and CLI11 speaks of that only.
    const auto unread = app_.remaining(true);
    if (unread.empty() || !std::string_view(error.what()).contains("ubcommand")) {
      app_.exit(error);
    } else {
      std::cerr << "There is no command '" << unread.front() << "'\nRun with --help for more information.\n";
    }
    return 2;
  } catch (const CLI::ParseError& error) {
    const int code = app_.exit(error);
    return code == 0 ? 0 : 2;
  }
  return std::nullopt;
}

}  // namespace slipway
