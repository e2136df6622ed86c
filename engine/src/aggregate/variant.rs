//! An enum's variant as event type and payload: how a serde enum becomes events and comes back.
//!
//! The variant's name (as serde spells it) is the event type; what the variant holds is the payload. So a payload looks the
//! same as one written by any other language: `Deposited { cents: 5 }` is `Deposited` with `{"cents":5}`.

use std::fmt;

use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::ser::{self, Impossible};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::event::{DataFormat, Event, EventData, Json};

/// The event type and payload of an enum's value.
pub(super) fn split<E: Serialize + ?Sized>(event: &E) -> Result<(String, EventData)> {
    let (event_type, json) = event.serialize(Split).map_err(|Refused(reason)| Error::Serialization { reason })?;
    Ok((event_type.to_owned(), EventData::Json(Json::from_serializer(json))))
}

/// The enum's value of a stored event.
pub(super) fn join<'de, E: Deserialize<'de>>(event: &'de Event) -> Result<E> {
    let fail = |reason: String| Error::Deserialization { position: event.position(), event_type: event.event_type().to_owned(), reason };
    E::deserialize(Join(event)).map_err(|Refused(reason)| fail(reason))
}

/// Why a value is no event, in serde's words.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

fn no_enum<T>() -> Result<T, Refused> {
    Err(Refused("an aggregate's events must be an enum as serde derives it, without `tag`, `untagged`, `into` or `transparent`".to_owned()))
}

type Parts = (&'static str, Vec<u8>);

/// Takes an enum's variant, refuses everything else.
struct Split;

macro_rules! refuse_scalars {
    ($($method:ident($value:ty))*) => {
        $(fn $method(self, _: $value) -> Result<Parts, Refused> { no_enum() })*
    };
}

impl serde::Serializer for Split {
    type Ok = Parts;
    type Error = Refused;
    type SerializeSeq = Impossible<Parts, Refused>;
    type SerializeTuple = Impossible<Parts, Refused>;
    type SerializeTupleStruct = Impossible<Parts, Refused>;
    type SerializeTupleVariant = Fields;
    type SerializeMap = Impossible<Parts, Refused>;
    type SerializeStruct = Impossible<Parts, Refused>;
    type SerializeStructVariant = Fields;

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Parts, Refused> {
        Ok((variant, b"{}".to_vec()))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, variant: &'static str, value: &T) -> Result<Parts, Refused> {
        Ok((variant, serde_json::to_vec(value)?))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Fields, Refused> {
        Ok(Fields { variant, json: b"[".to_vec() })
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Fields, Refused> {
        Ok(Fields { variant, json: b"{".to_vec() })
    }

    refuse_scalars! {
        serialize_bool(bool) serialize_char(char) serialize_str(&str) serialize_bytes(&[u8])
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
        serialize_f32(f32) serialize_f64(f64) serialize_unit_struct(&'static str)
    }

    fn serialize_none(self) -> Result<Parts, Refused> {
        no_enum()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<Parts, Refused> {
        no_enum()
    }

    fn serialize_unit(self) -> Result<Parts, Refused> {
        no_enum()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, _: &T) -> Result<Parts, Refused> {
        no_enum()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Refused> {
        no_enum()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Refused> {
        no_enum()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Refused> {
        no_enum()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Refused> {
        no_enum()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Refused> {
        no_enum()
    }
}

/// The fields of a variant, as JSON under way.
struct Fields {
    variant: &'static str,
    json: Vec<u8>,
}

impl Fields {
    fn separate(&mut self) {
        if self.json.len() > 1 {
            self.json.push(b',');
        }
    }

    fn close(mut self, bracket: u8) -> Parts {
        self.json.push(bracket);
        (self.variant, self.json)
    }
}

impl ser::SerializeTupleVariant for Fields {
    type Ok = Parts;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.separate();
        Ok(serde_json::to_writer(&mut self.json, value)?)
    }

    fn end(self) -> Result<Parts, Refused> {
        Ok(self.close(b']'))
    }
}

impl ser::SerializeStructVariant for Fields {
    type Ok = Parts;
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
        self.separate();
        serde_json::to_writer(&mut self.json, name)?;
        self.json.push(b':');
        Ok(serde_json::to_writer(&mut self.json, value)?)
    }

    fn end(self) -> Result<Parts, Refused> {
        Ok(self.close(b'}'))
    }
}

/// Gives an enum the variant and contents of a stored event.
struct Join<'de>(&'de Event);

impl<'de> Join<'de> {
    /// Reads the whole payload.
    fn contents<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>) -> serde_json::Result<T>,
    ) -> Result<T, Refused> {
        if self.0.format() != DataFormat::Json {
            return Err(Refused("its payload is Protobuf, not JSON".to_owned()));
        }
        let mut json = serde_json::Deserializer::from_slice(self.0.payload());
        let contents = read(&mut json)?;
        json.end()?;
        Ok(contents)
    }
}

impl<'de> Deserializer<'de> for Join<'de> {
    type Error = Refused;

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_enum(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
        no_enum()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Join<'de> {
    type Error = Refused;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refused> {
        let name: de::value::StrDeserializer<'_, Refused> = self.0.event_type().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Join<'de> {
    type Error = Refused;

    /// Whatever the payload holds: a variant without fields ignores what it does not know, as one with fields does.
    fn unit_variant(self) -> Result<(), Refused> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refused> {
        self.contents(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Refused> {
        self.contents(|json| json.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        self.contents(|json| json.deserialize_struct("variant", fields, visitor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NewEvent, Timestamp};
    use crate::version::{AggregateVersion, Position};

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    struct Part {
        name: String,
        price: Option<f64>,
    }

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    enum Happening {
        Opened,
        Renamed(String),
        Assembled(Part),
        Moved(i32, i32),
        #[serde(rename = "order.shipped", alias = "OrderSent")]
        Shipped {
            #[serde(rename = "to")]
            destination: String,
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            parts: Vec<Part>,
        },
    }

    fn stored(event_type: &str, data: EventData) -> Event {
        let new = NewEvent::new(event_type, data);
        Event::from_parts(&"a".into(), "Order", &new, Position(9), AggregateVersion(1), Timestamp(0)).expect("within the limits")
    }

    fn stored_json(event_type: &str, json: &str) -> Event {
        stored(event_type, EventData::Json(Json::new(json).expect("JSON")))
    }

    #[test]
    fn every_shape_of_variant_becomes_its_name_and_contents_and_comes_back() {
        let part = Part { name: "wheel \"A\"".to_owned(), price: None };
        let table = [
            (Happening::Opened, "Opened", "{}"),
            (Happening::Renamed("é".to_owned()), "Renamed", "\"é\""),
            (Happening::Assembled(part.clone()), "Assembled", r#"{"name":"wheel \"A\"","price":null}"#),
            (Happening::Moved(1, -2), "Moved", "[1,-2]"),
            (Happening::Shipped { destination: "x".to_owned(), parts: vec![] }, "order.shipped", r#"{"to":"x"}"#),
            (
                Happening::Shipped { destination: "x".to_owned(), parts: vec![part] },
                "order.shipped",
                r#"{"to":"x","parts":[{"name":"wheel \"A\"","price":null}]}"#,
            ),
        ];
        for (happening, event_type, json) in table {
            let (found, data) = split(&happening).expect("an enum");
            assert_eq!((&*found, std::str::from_utf8(data.as_bytes())), (event_type, Ok(json)));
            Json::new(data.as_bytes()).expect("JSON");
            assert_eq!(join::<Happening>(&stored(&found, data)).expect("the same enum"), happening);
        }
    }

    #[test]
    fn former_names_missing_and_unknown_fields_are_read() {
        let shipped = Happening::Shipped { destination: "x".to_owned(), parts: vec![] };
        assert_eq!(join::<Happening>(&stored_json("OrderSent", r#"{"to": "x", "added_later": [1]}"#)).expect("readable"), shipped);
        assert_eq!(join::<Happening>(&stored_json("Opened", r#"{"by": "ann"}"#)).expect("readable"), Happening::Opened);
        assert_eq!(join::<Happening>(&stored_json("Opened", "null")).expect("readable"), Happening::Opened);
    }

    #[test]
    fn what_does_not_fit_is_an_error_that_names_type_and_position() {
        let hostile = [
            stored_json("Unknown", "{}"),
            stored_json("Renamed", "{}"),
            stored_json("Moved", "[1]"),
            stored_json("Moved", "[1,2,3]"),
            stored("Renamed", EventData::Protobuf(b"\"x\"".to_vec())),
            stored("Assembled", EventData::Json(Json::from_serializer(b"{\"name\":\"x\"} {}".to_vec()))),
        ];
        for event in hostile {
            match join::<Happening>(&event) {
                Err(Error::Deserialization { position: Position(9), event_type, .. }) => assert_eq!(event_type, event.event_type()),
                other => panic!("expected a refusal of {event:?}, not {other:?}"),
            }
        }
    }

    #[derive(Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Opened { by: String },
    }

    #[test]
    fn an_enum_that_serde_writes_in_another_way_is_refused_and_told_so() {
        let tagged = Tagged::Opened { by: "ann".to_owned() };
        for refused in [split(&tagged), split("text"), split(&Some(Happening::Opened)), split(&vec![1])] {
            match refused {
                Err(Error::Serialization { reason }) => assert!(reason.contains("must be an enum"), "{reason}"),
                other => panic!("expected a refusal, not {other:?}"),
            }
        }
        assert!(join::<Tagged>(&stored_json("Opened", r#"{"by":"ann"}"#)).is_err());
    }
}
