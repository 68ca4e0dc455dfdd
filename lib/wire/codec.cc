#include "lib/wire/codec.h"

#include <capnp/dynamic.h>
#include <capnp/message.h>
#include <capnp/schema.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <boost/pfr.hpp>
#include <boost/pfr/core_name.hpp>
#include <cstring>
#include <type_traits>

#include "schema/envelope.capnp.h"
#include "schema/records.capnp.h"

namespace slipway {
namespace {

// The structs in schema/*.h have the fields of the schema's structs under the same names (snake_case there, camelCase
// here), so one walk over the fields serves every message: names are looked up once per type, then kept.

template <class T>
constexpr bool is_vector = false;
template <class T>
constexpr bool is_vector<std::vector<T>> = true;
template <class T>
constexpr bool is_id = false;
template <class Tag>
constexpr bool is_id<Id<Tag>> = true;
template <class T>
constexpr bool is_plain_struct =
    std::is_aggregate_v<T> && !std::is_same_v<T, Digest> && !is_vector<T> && !std::is_same_v<T, std::string>;

std::string camel_case(std::string_view snake) {
  std::string camel;
  bool upper = false;
  for (const char c : snake) {
    if (c == '_') {
      upper = true;
      continue;
    }
    camel.push_back(upper ? static_cast<char>(std::toupper(c)) : c);
    upper = false;
  }
  return camel;
}

// The schema's fields in the order of T's members.
template <class T>
const std::vector<capnp::StructSchema::Field>& fields_of(capnp::StructSchema schema) {
  static const auto fields = [&] {
    std::vector<capnp::StructSchema::Field> found;
    for (const auto name : boost::pfr::names_as_array<T>()) found.push_back(schema.getFieldByName(camel_case(name)));
    return found;
  }();
  return fields;
}

// Not inlined: structs within structs within fifty messages would be one function of a hundred thousand lines.
template <class T>
[[gnu::noinline]] void write_struct(const T& value, capnp::DynamicStruct::Builder builder);

template <class T>
void write_element(capnp::DynamicList::Builder list, unsigned index, const T& value) {
  if constexpr (is_plain_struct<T>) {
    write_struct(value, list[index].as<capnp::DynamicStruct>());
  } else if constexpr (std::is_same_v<T, std::string>) {
    list.set(index, capnp::Text::Reader(value.c_str(), value.size()));
  } else if constexpr (std::is_same_v<T, Digest>) {
    list.set(index, capnp::Data::Reader(value.bytes.data(), value.bytes.size()));
  } else {
    list.set(index, value);
  }
}

template <class T>
void write_field(capnp::DynamicStruct::Builder builder, capnp::StructSchema::Field field, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!value.empty()) builder.set(field, capnp::Text::Reader(value.c_str(), value.size()));
  } else if constexpr (is_id<T>) {
    write_field(builder, field, value.text());
  } else if constexpr (std::is_same_v<T, Digest>) {
    if (!value.empty()) builder.set(field, capnp::Data::Reader(value.bytes.data(), value.bytes.size()));
  } else if constexpr (std::is_enum_v<T>) {
    const auto number = static_cast<std::uint16_t>(value);
    builder.set(field, capnp::DynamicEnum(field.getType().asEnum(), number));
  } else if constexpr (is_vector<T>) {
    if (value.empty()) return;
    auto list = builder.init(field, value.size()).template as<capnp::DynamicList>();
    for (unsigned i = 0; i < value.size(); ++i) write_element(list, i, value[i]);
  } else if constexpr (is_plain_struct<T>) {
    write_struct(value, builder.init(field).template as<capnp::DynamicStruct>());
  } else {
    builder.set(field, value);
  }
}

template <class T>
void write_struct(const T& value, capnp::DynamicStruct::Builder builder) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    const auto& fields = fields_of<T>(builder.getSchema());
    boost::pfr::for_each_field(value,
                               [&](const auto& member, std::size_t i) { write_field(builder, fields[i], member); });
  }
}

// --- counting: the words that the same walk will write ---

struct Count {
  std::uint64_t words = 0;
  std::size_t longest_list = 0;

  void bytes(std::size_t size) { words += (size + sizeof(capnp::word) - 1) / sizeof(capnp::word); }
};

// Of a T's own data and pointers.
template <class T>
std::uint64_t own_words(capnp::StructSchema schema) {
  static const std::uint64_t words = [&] {
    const auto layout = schema.getProto().getStruct();
    return std::uint64_t{layout.getDataWordCount()} + layout.getPointerCount();
  }();
  return words;
}

template <class T>
[[gnu::noinline]] void count_struct(const T& value, capnp::StructSchema schema, Count& count);

// What `value`'s pointer points to.
template <class T>
void count_field(const T& value, capnp::StructSchema::Field field, Count& count) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!value.empty()) count.bytes(value.size() + 1);
  } else if constexpr (is_id<T>) {
    count_field(value.text(), field, count);
  } else if constexpr (std::is_same_v<T, Digest>) {
    if (!value.empty()) count.bytes(value.bytes.size());
  } else if constexpr (is_vector<T>) {
    using Item = T::value_type;
    if (value.empty()) return;
    count.longest_list = std::max(count.longest_list, value.size());
    if constexpr (is_plain_struct<Item>) {
      const auto schema = field.getType().asList().getStructElementType();
      count.words += 1 + value.size() * own_words<Item>(schema);
      for (const Item& item : value) count_struct(item, schema, count);
    } else if constexpr (std::is_same_v<Item, std::string>) {
      count.words += value.size();
      for (const Item& item : value) count.bytes(item.size() + 1);
    } else if constexpr (std::is_same_v<Item, Digest>) {
      count.words += value.size();
      for (const Item& item : value) count.bytes(item.bytes.size());
    } else {
      static_assert(std::is_arithmetic_v<Item> && !std::is_same_v<Item, bool>);
      count.bytes(value.size() * sizeof(Item));
    }
  } else if constexpr (is_plain_struct<T>) {
    const auto schema = field.getType().asStruct();
    count.words += own_words<T>(schema);
    count_struct(value, schema, count);
  }
}

template <class T>
void count_struct(const T& value, capnp::StructSchema schema, Count& count) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    const auto& fields = fields_of<T>(schema);
    boost::pfr::for_each_field(value,
                               [&](const auto& member, std::size_t i) { count_field(member, fields[i], count); });
  }
}

// --- reading ---

struct Malformed {
  std::string what;
};

template <class T>
[[gnu::noinline]] void read_struct(capnp::DynamicStruct::Reader reader, T& value);

Digest read_digest(capnp::Data::Reader data) {
  Digest digest;
  if (data.size() == 0) return digest;
  if (data.size() != digest.bytes.size()) throw Malformed{"a digest that is not 32 bytes long"};
  std::copy(data.begin(), data.end(), digest.bytes.begin());
  return digest;
}

template <class T>
void read_element(capnp::DynamicValue::Reader element, T& value) {
  if constexpr (is_plain_struct<T>) {
    read_struct(element.as<capnp::DynamicStruct>(), value);
  } else if constexpr (std::is_same_v<T, std::string>) {
    const auto text = element.as<capnp::Text>();
    value.assign(text.begin(), text.size());
  } else if constexpr (std::is_same_v<T, Digest>) {
    value = read_digest(element.as<capnp::Data>());
  } else {
    value = element.as<T>();
  }
}

template <class T>
void read_field(capnp::DynamicStruct::Reader reader, capnp::StructSchema::Field field, T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    const auto text = reader.get(field).as<capnp::Text>();
    value.assign(text.begin(), text.size());
  } else if constexpr (is_id<T>) {
    std::string text;
    read_field(reader, field, text);
    value = T(std::move(text));
  } else if constexpr (std::is_same_v<T, Digest>) {
    value = read_digest(reader.get(field).as<capnp::Data>());
  } else if constexpr (std::is_enum_v<T>) {
    value = static_cast<T>(reader.get(field).as<capnp::DynamicEnum>().getRaw());
  } else if constexpr (is_vector<T>) {
    const auto list = reader.get(field).as<capnp::DynamicList>();
    // A list of empty structs takes no bytes in the message but plenty here.
    if (list.size() > kMaxListItems) throw Malformed{std::format("a list of {} items", list.size())};
    value.resize(list.size());
    for (unsigned i = 0; i < list.size(); ++i) read_element(list[i], value[i]);
  } else if constexpr (is_plain_struct<T>) {
    read_struct(reader.get(field).as<capnp::DynamicStruct>(), value);
  } else {
    value = reader.get(field).as<T>();
  }
}

template <class T>
void read_struct(capnp::DynamicStruct::Reader reader, T& value) {
  if constexpr (boost::pfr::tuple_size_v<T> > 0) {
    const auto& fields = fields_of<T>(reader.getSchema());
    boost::pfr::for_each_field(value, [&](auto& member, std::size_t i) { read_field(reader, fields[i], member); });
  }
}

// --- the envelope's union ---

template <std::size_t I>
void write_body(const msg::Body& body, capnp::DynamicStruct::Builder envelope) {
  const auto field = envelope.getSchema().getUnionFields()[I];
  if constexpr (boost::pfr::tuple_size_v<std::variant_alternative_t<I, msg::Body>> == 0) {
    envelope.set(field, capnp::Void{});
  } else {
    write_struct(std::get<I>(body), envelope.init(field).as<capnp::DynamicStruct>());
  }
}

template <std::size_t I>
void read_body(capnp::DynamicStruct::Reader envelope, msg::Body& body) {
  auto& alternative = body.emplace<I>();
  if constexpr (boost::pfr::tuple_size_v<std::variant_alternative_t<I, msg::Body>> != 0) {
    const auto field = envelope.getSchema().getUnionFields()[I];
    read_struct(envelope.get(field).as<capnp::DynamicStruct>(), alternative);
  }
}

template <std::size_t I>
void count_body(const msg::Body& body, Count& count) {
  using Kind = std::variant_alternative_t<I, msg::Body>;
  if constexpr (boost::pfr::tuple_size_v<Kind> != 0) {
    static const auto field = capnp::Schema::from<schema::Envelope>().getUnionFields()[I];
    count_field(std::get<I>(body), field, count);
  }
}

constexpr auto kKinds = std::make_index_sequence<std::variant_size_v<msg::Body>>{};

constexpr auto kWriters = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&write_body<I>...};
}(kKinds);
constexpr auto kCounters = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&count_body<I>...};
}(kKinds);
constexpr auto kReaders = []<std::size_t... I>(std::index_sequence<I...>) {
  return std::array{&read_body<I>...};
}(kKinds);

// Position in getUnionFields(), which is the schema's code order, of the field that is set.
std::size_t kind_of(schema::Envelope::Reader envelope) {
  static const auto positions = [] {
    std::vector<std::size_t> by_tag;
    const auto fields = capnp::Schema::from<schema::Envelope>().getUnionFields();
    by_tag.resize(fields.size(), 0);
    for (unsigned i = 0; i < fields.size(); ++i) by_tag[fields[i].getProto().getDiscriminantValue()] = i;
    return by_tag;
  }();
  const auto tag = static_cast<std::size_t>(envelope.which());
  return tag < positions.size() ? positions[tag] : 0;
}

// --- frames ---

// This release writes one; earlier ones wrote as many as a record needed, and disks have them.
constexpr std::uint32_t kMaxSegments = 512;

// Calls `read` with the root of `bytes`; whatever is wrong with them becomes an Error with `code`.
template <class Root, class Read>
auto with_root(std::span<const std::byte> bytes, Code code, Read read)
    -> decltype(read(std::declval<typename Root::Reader>())) {
  if (bytes.size() < 16 || bytes.size() % 8 != 0) {
    return fail(code, std::format("{} bytes are not a Cap'n Proto message", bytes.size()));
  }
  std::uint32_t segments_less_one = 0;
  std::memcpy(&segments_less_one, bytes.data(), sizeof segments_less_one);
  if (segments_less_one >= kMaxSegments) {
    return fail(code, std::format("a message of {} segments", segments_less_one + 1ULL));
  }

  // Small ZeroMQ frames arrive at any address; Cap'n Proto wants multiples of 8.
  std::vector<capnp::word> aligned;
  const auto* words = reinterpret_cast<const capnp::word*>(bytes.data());
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % sizeof(capnp::word) != 0) {
    aligned.resize(bytes.size() / sizeof(capnp::word));
    std::memcpy(aligned.data(), bytes.data(), bytes.size());
    words = aligned.data();
  }
  try {
    capnp::ReaderOptions limits;
    limits.traversalLimitInWords = 4 * (bytes.size() / sizeof(capnp::word)) + 1024;
    limits.nestingLimit = 16;
    capnp::FlatArrayMessageReader reader(kj::arrayPtr(words, bytes.size() / sizeof(capnp::word)), limits);
    return read(reader.getRoot<Root>());
  } catch (const kj::Exception& error) {
    return fail(code, std::format("malformed message: {}", error.getDescription().cStr()));
  } catch (const Malformed& error) {
    return fail(code, "malformed message: " + error.what);
  }
}

// Bytes of a message of one segment: the table of segments, then the words.
constexpr std::size_t message_bytes(const Count& count) { return (1 + count.words) * sizeof(capnp::word); }

// Lets `write` write a message of `count` words, exactly, into `bytes`, which are zero.
template <class Root, class Write>
void write_message(const Count& count, void* bytes, Write write) {
  const std::uint32_t table[2] = {0, static_cast<std::uint32_t>(count.words)};  // segments less one, their sizes
  std::memcpy(bytes, table, sizeof table);
  capnp::FlatMessageBuilder builder(kj::arrayPtr(static_cast<capnp::word*>(bytes) + 1, count.words));
  write(builder.initRoot<Root>());
  builder.requireFilled();
}

Result<void> check(const Count& count, std::string_view what, std::size_t max_bytes) {
  if (message_bytes(count) > max_bytes) {
    return fail(Code::kTooLarge,
                std::format("{} of {} bytes, at most {} are taken", what, message_bytes(count), max_bytes));
  }
  if (count.longest_list > kMaxListItems) {
    return fail(Code::kTooLarge, std::format("{} with a list of {} items, at most {} are taken", what,
                                             count.longest_list, kMaxListItems));
  }
  return {};
}

Count count_of(const msg::Envelope& envelope) {
  Count count{.words = 1, .longest_list = 0};  // the pointer to the root
  count.words += own_words<msg::Envelope>(capnp::Schema::from<schema::Envelope>());
  if (!envelope.request_id.empty()) count.bytes(envelope.request_id.size() + 1);
  if (!envelope.secret.empty()) count.bytes(envelope.secret.size() + 1);
  count.longest_list = envelope.payload_bytes.size();
  count.words += envelope.payload_bytes.size();
  kCounters[envelope.body.index()](envelope.body, count);
  return count;
}

capnp::Text::Reader to_text(const std::string& text) { return {text.c_str(), text.size()}; }

template <class T>
struct RecordSchema;
template <>
struct RecordSchema<Dataset> : std::type_identity<schema::Dataset> {};
template <>
struct RecordSchema<Job> : std::type_identity<schema::Job> {};
template <>
struct RecordSchema<JobEvent> : std::type_identity<schema::JobEvent> {};
template <>
struct RecordSchema<Checkpoint> : std::type_identity<schema::Checkpoint> {};
template <>
struct RecordSchema<Lease> : std::type_identity<schema::Lease> {};
template <>
struct RecordSchema<Version> : std::type_identity<schema::Version> {};
template <>
struct RecordSchema<Model> : std::type_identity<schema::Model> {};
template <>
struct RecordSchema<Alias> : std::type_identity<schema::Alias> {};
template <>
struct RecordSchema<AliasMove> : std::type_identity<schema::AliasMove> {};
template <>
struct RecordSchema<Quarantine> : std::type_identity<schema::Quarantine> {};
template <>
struct RecordSchema<StoredFile> : std::type_identity<schema::StoredFile> {};

template <class T>
Count count_of_record(const T& record) {
  const auto schema = capnp::Schema::from<typename RecordSchema<T>::type>();
  Count count{.words = 1 + own_words<T>(schema), .longest_list = 0};
  count_struct(record, schema, count);
  return count;
}

}  // namespace

Frame encode(const msg::Envelope& envelope) {
  const Count count = count_of(envelope);
  std::vector<std::uint64_t> words(1 + count.words);
  write_message<schema::Envelope>(count, words.data(), [&](schema::Envelope::Builder root) {
    root.setProtocol(kProtocol);
    root.setCorrelation(envelope.correlation);
    root.setDeadlineMs(envelope.deadline_ms);
    if (!envelope.request_id.empty()) root.setRequestId(to_text(envelope.request_id));
    if (!envelope.secret.empty()) root.setSecret(to_text(envelope.secret));
    if (!envelope.payload_bytes.empty()) {
      auto sizes = root.initPayloadBytes(static_cast<unsigned>(envelope.payload_bytes.size()));
      for (unsigned i = 0; i < sizes.size(); ++i) sizes.set(i, envelope.payload_bytes[i]);
    }
    kWriters[envelope.body.index()](envelope.body, root);
  });
  return Frame::of(std::move(words));
}

std::size_t encoded_bytes(const msg::Envelope& envelope) { return message_bytes(count_of(envelope)); }

Result<void> fits(const msg::Envelope& envelope, std::size_t max_bytes) {
  return check(count_of(envelope), "an envelope", max_bytes);
}

Result<msg::Envelope> decode(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxEnvelopeBytes) {
    return fail(Code::kTooLarge,
                std::format("an envelope of {} bytes, at most {} are taken", bytes.size(), kMaxEnvelopeBytes));
  }
  return with_root<schema::Envelope>(
      bytes, Code::kInvalidArgument, [](schema::Envelope::Reader root) -> Result<msg::Envelope> {
        if (root.getProtocol() != kProtocol) {
          return fail(Code::kUnsupported,
                      std::format("protocol {} came, this release speaks {}", root.getProtocol(), kProtocol));
        }
        msg::Envelope envelope{.correlation = root.getCorrelation(),
                               .deadline_ms = root.getDeadlineMs(),
                               .request_id = std::string(root.getRequestId().begin(), root.getRequestId().size()),
                               .secret = std::string(root.getSecret().begin(), root.getSecret().size()),
                               .payload_bytes = {},
                               .body = {}};
        const auto sizes = root.getPayloadBytes();
        if (sizes.size() > kMaxListItems) throw Malformed{std::format("a list of {} items", sizes.size())};
        for (const std::uint64_t size : sizes) envelope.payload_bytes.push_back(size);
        kReaders[kind_of(root)](root, envelope.body);
        return envelope;
      });
}

std::uint64_t correlation_of(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxEnvelopeBytes) return 0;
  const auto correlation = with_root<schema::Envelope>(
      bytes, Code::kInvalidArgument,
      [](schema::Envelope::Reader root) { return Result<std::uint64_t>(root.getCorrelation()); });
  return correlation.value_or(0);
}

template <class T>
std::string encode_record(const T& record) {
  const Count count = count_of_record(record);
  std::string bytes(message_bytes(count), '\0');  // from the heap, and so aligned
  write_message<typename RecordSchema<T>::type>(count, bytes.data(),
                                                [&](auto root) { write_struct(record, std::move(root)); });
  return bytes;
}

template <class T>
std::size_t encoded_bytes(const T& record) {
  return message_bytes(count_of_record(record));
}

template <class T>
Result<void> fits(const T& record) {
  return check(count_of_record(record), "a record", kMaxRecordBytes);
}

template <class T>
Result<T> decode_record(std::span<const std::byte> bytes) {
  using Root = typename RecordSchema<T>::type;
  return with_root<Root>(bytes, Code::kDataLoss, [](typename Root::Reader root) -> Result<T> {
    T record;
    read_struct(capnp::DynamicStruct::Reader(root), record);
    return record;
  });
}

#define SLIPWAY_RECORD(T)                       \
  template std::string encode_record(const T&); \
  template std::size_t encoded_bytes(const T&); \
  template Result<void> fits(const T&);         \
  template Result<T> decode_record(std::span<const std::byte>);
SLIPWAY_RECORD(Dataset)
SLIPWAY_RECORD(Job)
SLIPWAY_RECORD(JobEvent)
SLIPWAY_RECORD(Checkpoint)
SLIPWAY_RECORD(Lease)
SLIPWAY_RECORD(Version)
SLIPWAY_RECORD(Model)
SLIPWAY_RECORD(Alias)
SLIPWAY_RECORD(AliasMove)
SLIPWAY_RECORD(Quarantine)
SLIPWAY_RECORD(StoredFile)
#undef SLIPWAY_RECORD

msg::Error to_message(const Error& error) {
  return {.code = static_cast<std::uint8_t>(error.code),
          .message = error.message,
          .retry_after_ms = static_cast<std::uint32_t>(error.retry_after.count()),
          .path = error.path};
}

Error from_message(const msg::Error& error) {
  const bool known = error.code >= static_cast<std::uint8_t>(Code::kInvalidArgument) &&
                     error.code <= static_cast<std::uint8_t>(Code::kUnsupported);
  return {.code = known ? static_cast<Code>(error.code) : Code::kInternal,
          .message = error.message,
          .path = error.path,
          .retry_after = std::chrono::milliseconds(error.retry_after_ms)};
}

}  // namespace slipway
