#include "cli/sse_reader.h"

#include <format>

namespace slipway::cli {

Result<std::vector<SseEvent>> SseReader::push(std::string_view bytes) {
  std::vector<SseEvent> events;
  for (const char c : bytes) {
    if (c == '\n' && after_cr_) {
      after_cr_ = false;
      continue;
    }
    after_cr_ = c == '\r';
    if (c == '\r' || c == '\n') {
      end_line(events);
      continue;
    }
    if (line_.size() + data_.size() >= max_event_bytes_) {
      return fail(Code::kTooLarge, std::format("an event of the stream is larger than {} bytes", max_event_bytes_));
    }
    line_.push_back(c);
  }
  return events;
}

void SseReader::reconnect() {
  line_.clear();
  name_.clear();
  data_.clear();
  has_data_ = false;
  after_cr_ = false;
  first_line_ = true;
}

void SseReader::end_line(std::vector<SseEvent>& events) {
  std::string_view line = line_;
  if (first_line_ && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  first_line_ = false;

  if (line.empty()) {
    if (has_data_) {
      data_.pop_back();  // the '\n' after the last line of data
      events.push_back({.id = id_, .name = name_.empty() ? "message" : name_, .data = data_});
    }
    name_.clear();
    data_.clear();
    has_data_ = false;
  } else if (line.front() != ':') {  // a comment otherwise
    const auto colon = line.find(':');
    const std::string_view field = line.substr(0, colon);
    std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (field == "data") {
      data_.append(value).push_back('\n');
      has_data_ = true;
    } else if (field == "event") {
      name_ = value;
    } else if (field == "id" && !value.contains('\0')) {
      id_ = value;
    }
  }
  line_.clear();
}

}  // namespace slipway::cli
