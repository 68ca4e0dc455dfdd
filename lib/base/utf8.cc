#include "lib/base/utf8.h"

#include <boost/nowide/utf/utf.hpp>

namespace slipway {

Utf8Character take_character(std::string_view& text) {
  const char* at = text.data();
  const auto point = boost::nowide::utf::utf_traits<char>::decode(at, text.data() + text.size());
  const auto size = static_cast<std::size_t>(at - text.data());
  const Utf8Character taken{.point = point,
                            .bytes = text.substr(0, size),
                            .valid = point != boost::nowide::utf::illegal && point != boost::nowide::utf::incomplete};
  text.remove_prefix(size);
  return taken;
}

}  // namespace slipway
