//! A request of `tidings.v1`, read once: which operation, and each field as the JSON that it was written in.
//!
//! Fields are converted only when their operation asks for them, so that an error names its field and the
//! answer can still carry the request's `id`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidings_types::{Refusal, RefusalCode};

use super::nearest::nearest;

/// The longest `id` that is a string.
const ID_CHARS_MAX: usize = 64;
/// The longest `id` as it is written, with escapes.
const ID_BYTES_MAX: usize = ID_CHARS_MAX * 6 + 2;
/// Of an unknown word, as much as an error repeats.
const SHOWN_CHARS_MAX: usize = 40;

macro_rules! fields {
    ($($name:ident $text:literal,)*) => {
        /// A field of a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field {
            $($name,)*
        }

        impl Field {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name on the wire.
            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

fields! {
    Op "op",
    Id "id",
    Token "token",
    User "user",
    Password "password",
    Topic "topic",
    Topics "topics",
    After "after",
    Last "last",
    Echo "echo",
    Sub "sub",
    Data "data",
    Base64 "base64",
    Event "event",
    Key "key",
    Ttl "ttl",
    Retain "retain",
    ContentType "content_type",
    Headers "headers",
    Group "group",
    Prefetch "prefetch",
    AckTimeout "ack_timeout",
    Forget "forget",
    Message "message",
    Requeue "requeue",
}

macro_rules! operations {
    ($($name:ident $text:literal [$($field:ident)*],)*) => {
        /// What is asked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Op {
            $($name,)*
        }

        impl Op {
            const ALL: &'static [Self] = &[$(Self::$name,)*];

            const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The fields that it knows, besides `op` and `id`.
            const fn fields(self) -> &'static [Field] {
                match self { $(Self::$name => &[$(Field::$field,)*],)* }
            }
        }
    };
}

operations! {
    Auth "auth" [Token User Password],
    Subscribe "subscribe" [Topic Topics After Last Echo Group Prefetch AckTimeout],
    Unsubscribe "unsubscribe" [Topic Sub Forget],
    Publish "publish" [Topic Data Base64 Event Key Ttl Retain ContentType Headers],
    Ack "ack" [Sub Message],
    Nack "nack" [Sub Message Requeue],
    Ping "ping" [],
}

/// The request's `id` as it was written, for the answer.
pub(super) type RequestId = Option<Box<str>>;

/// One request; its fields borrow from the frame.
pub(super) struct Request<'a> {
    pub(super) op: Op,
    fields: Fields<'a>,
}

/// A request that is not understood, with its id as far as it was.
pub(super) struct Rejected {
    pub(super) id: RequestId,
    pub(super) refusal: Refusal,
}

impl<'a> Request<'a> {
    /// Reads a frame's text.
    pub(super) fn parse(text: &'a str) -> Result<(Self, RequestId), Rejected> {
        let fields: Fields<'a> = serde_json::from_str(text).map_err(|error| Rejected {
            id: None,
            refusal: Refusal::new(
                RefusalCode::BadJson,
                format!(
                    "a request is one JSON object, as in {{\"op\":\"ping\",\"id\":1}}: {error}"
                ),
            ),
        })?;
        let id = fields
            .id()
            .map_err(|refusal| Rejected { id: None, refusal })?;
        match fields.op() {
            Ok(op) => Ok((Self { op, fields }, id)),
            Err(refusal) => Err(Rejected { id, refusal }),
        }
    }

    /// The JSON of a field, also when it is `null`.
    pub(super) fn raw(&self, field: Field) -> Option<&'a str> {
        self.fields.get(field)
    }

    /// A field's value; `null` is as if it were not there. `expected` completes the sentence "must be ..".
    pub(super) fn get<T: Deserialize<'a>>(
        &self,
        field: Field,
        expected: &str,
    ) -> Result<Option<T>, Refusal> {
        let Some(json) = self.fields.get(field).filter(|json| *json != "null") else {
            return Ok(None);
        };
        serde_json::from_str(json).map_err(|_| bad_field(field, expected))
    }
}

/// A field with a value that it cannot have.
pub(super) fn bad_field(field: Field, expected: &str) -> Refusal {
    Refusal::new(
        RefusalCode::BadParameter,
        format!("`{}` must be {expected}", field.name()),
    )
}

struct Fields<'a> {
    values: [Option<&'a RawValue>; Field::ALL.len()],
    /// The first one that no operation knows.
    unknown: Option<String>,
    /// One that stands twice.
    repeated: Option<Field>,
}

impl<'a> Fields<'a> {
    fn get(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize].map(RawValue::get)
    }

    fn id(&self) -> Result<RequestId, Refusal> {
        let Some(json) = self.get(Field::Id).filter(|json| *json != "null") else {
            return Ok(None);
        };
        let fits = json.len() <= ID_BYTES_MAX
            && if json.starts_with('"') {
                serde_json::from_str::<String>(json)
                    .is_ok_and(|text| text.chars().count() <= ID_CHARS_MAX)
            } else {
                serde_json::from_str::<i64>(json).is_ok()
                    || serde_json::from_str::<u64>(json).is_ok()
            };
        if fits {
            Ok(Some(json.into()))
        } else {
            Err(bad_field(
                Field::Id,
                "an integer of 64 bits, or a string of at most 64 characters",
            ))
        }
    }

    /// The operation, once all fields are ones that it knows.
    fn op(&self) -> Result<Op, Refusal> {
        let names = || Op::ALL.iter().map(|op| op.name());
        let Some(json) = self.get(Field::Op) else {
            let names: Vec<&str> = names().collect();
            let detail = format!("`op` is missing: it is one of {}", names.join(", "));
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        };
        let name: Cow<'_, str> =
            serde_json::from_str(json).map_err(|_| bad_field(Field::Op, "a string"))?;
        let Some(op) = Op::ALL.iter().copied().find(|op| op.name() == name) else {
            let detail = unknown_word("operation", &name, names());
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        };
        if let Some(field) = self.repeated {
            let detail = format!("`{}` stands twice", field.name());
            return Err(Refusal::new(RefusalCode::BadJson, detail));
        }
        let known = || op.fields().iter().map(|field| field.name());
        let foreign = Field::ALL.iter().find(|field| {
            let common = matches!(field, Field::Op | Field::Id);
            self.get(**field).is_some() && !common && !op.fields().contains(field)
        });
        if let Some(name) = self
            .unknown
            .as_deref()
            .or(foreign.map(|field| field.name()))
        {
            let what = format!("field for `{}`", op.name());
            let detail = unknown_word(&what, name, known());
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        Ok(op)
    }
}

/// Names a word that is not known, and the one that was probably meant, or all.
fn unknown_word<'k>(
    what: &str,
    word: &str,
    known: impl Iterator<Item = &'k str> + Clone,
) -> String {
    let shown: String = word.chars().take(SHOWN_CHARS_MAX).collect();
    if let Some(meant) = nearest(&shown, known.clone()) {
        return format!("`{shown}` is not a known {what}: did you mean `{meant}`?");
    }
    let known: Vec<&str> = known.collect();
    if known.is_empty() {
        format!("`{shown}` is not a known {what}: it has none")
    } else {
        format!(
            "`{shown}` is not a known {what}: known are {}",
            known.join(", ")
        )
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields {
            values: [None; Field::ALL.len()],
            unknown: None,
            repeated: None,
        };
        while let Some(name) = map.next_key::<FieldName>()? {
            match name {
                FieldName::Known(field) => {
                    let value = map.next_value::<&'de RawValue>()?;
                    if fields.values[field as usize].replace(value).is_some() {
                        fields.repeated = Some(field);
                    }
                }
                FieldName::Unknown(name) => {
                    map.next_value::<IgnoredAny>()?;
                    fields.unknown.get_or_insert(name);
                }
            }
        }
        Ok(fields)
    }
}

enum FieldName {
    Known(Field),
    Unknown(String),
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(FieldNameVisitor)
    }
}

struct FieldNameVisitor;

impl Visitor<'_> for FieldNameVisitor {
    type Value = FieldName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<FieldName, E> {
        let known = Field::ALL.iter().find(|field| field.name() == name);
        Ok(known.map_or_else(
            || FieldName::Unknown(name.chars().take(SHOWN_CHARS_MAX).collect()),
            |field| FieldName::Known(*field),
        ))
    }
}
