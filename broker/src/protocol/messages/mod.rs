//! The messages, one file per API: a table of fields, each with the versions that carry it.
//!
//! A row is `name: Type = versions`, then what applies of `null versions` (those that allow null; all, if it is not said),
//! `tag number` (a tagged field of the flexible versions), `default value` (what the field is where a version does not
//! carry it, or a tagged field is absent). Strings, bytes and arrays become compact by themselves in flexible versions.

use std::ops::RangeBounds;

use super::primitive::Field;

pub mod api_versions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;

#[cfg(test)]
mod schemas;
#[cfg(test)]
mod tests;

/// A request, and what belongs to it.
pub trait Request: Field {
    /// The API's number.
    const KEY: i16;
    /// First version with compact lengths and tagged fields; `i16::MAX` if there is none.
    const FLEXIBLE: i16;
    /// Its answer.
    type Response: Field;
}

/// The value a field has where nothing else is said.
macro_rules! default_of {
    () => {
        Default::default()
    };
    ($value:expr) => {
        $value
    };
}

macro_rules! tag_of {
    () => {
        None::<u32>
    };
    ($tag:literal) => {
        Some($tag)
    };
}

macro_rules! nullable_in {
    ($version:expr) => {
        true
    };
    ($version:expr, $range:expr) => {
        carries(&($range), $version)
    };
}

macro_rules! message {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$field_meta:meta])* $field:ident: $type:ty = $range:expr
            $(, null $null:expr)? $(, tag $tag:literal)? $(, default $default:expr)?;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the fields are Kafka's, under Kafka's names")]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: default_of!($($default)?),)* }
            }
        }

        impl Field for $name {
            const LEAST: usize = 1;

            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                let mut message = Self::default();
                $(
                    if tag_of!($($tag)?).is_none() && carries(&($range), reader.version()) {
                        message.$field = Field::read(reader)?;
                        if message.$field.is_null() && !nullable_in!(reader.version() $(, $null)?) {
                            return Err(DecodeError::Malformed(concat!("null in ", stringify!($field))));
                        }
                    }
                )*
                reader.tagged(|tag, field| {
                    $(
                        if tag_of!($($tag)?) == Some(tag) && carries(&($range), field.version()) {
                            message.$field = Field::read(field)?;
                            return Ok(true);
                        }
                    )*
                    let _ = (tag, field);
                    Ok(false)
                })?;
                Ok(message)
            }

            fn write(&self, writer: &mut Writer) {
                $(
                    if tag_of!($($tag)?).is_none() && carries(&($range), writer.version()) {
                        if self.$field.is_null() && !nullable_in!(writer.version() $(, $null)?) {
                            <$type as Field>::write_empty(writer);
                        } else {
                            self.$field.write(writer);
                        }
                    }
                )*
                if !writer.flexible() {
                    return;
                }
                let defaults = std::cell::OnceCell::<Self>::new();
                let present = |differs: fn(&Self, &Self) -> bool| differs(self, defaults.get_or_init(Self::default));
                let mut tags: Vec<(u32, fn(&Self, &mut Writer))> = Vec::new();
                $(
                    if let Some(tag) = tag_of!($($tag)?)
                        && carries(&($range), writer.version())
                        && present(|own, default| own.$field != default.$field)
                    {
                        tags.push((tag, |own, writer| own.$field.write(writer)));
                    }
                )*
                let _ = present;
                writer.unsigned_varint(tags.len() as u32);
                for (tag, write) in tags {
                    let mut field = Writer::new(writer.version(), true);
                    write(self, &mut field);
                    let bytes = field.into_bytes();
                    writer.unsigned_varint(tag);
                    writer.unsigned_varint(bytes.len() as u32);
                    writer.put(&bytes);
                }
            }
        }

        #[cfg(test)]
        impl super::schemas::Described for $name {
            fn shape() -> super::schemas::Shape {
                super::schemas::Shape::Structure(vec![
                    $(super::schemas::Row {
                        name: stringify!($field),
                        shape: <$type as super::schemas::Described>::shape(),
                        carried: |version| carries(&($range), version),
                        nullable: |version| {
                            let _ = version;
                            <$type as super::schemas::Described>::NULLABLE
                                && nullable_in!(version $(, $null)?)
                        },
                        tag: tag_of!($($tag)?),
                        default: format!("{:?}", Self::default().$field),
                    },)*
                ])
            }
        }

        #[cfg(test)]
        impl super::tests::Sample for $name {
            fn sample(dice: &mut super::tests::Dice) -> Self {
                let mut message = Self::default();
                $(
                    if carries(&($range), dice.version) {
                        message.$field = super::tests::Sample::sample(dice);
                        if message.$field.is_null() && !nullable_in!(dice.version $(, $null)?) {
                            message.$field = super::tests::Sample::sample_some(dice);
                        }
                    }
                )*
                message
            }
        }
    };
}
use {default_of, message, nullable_in, tag_of};

fn carries(versions: &impl RangeBounds<i16>, version: i16) -> bool {
    versions.contains(&version)
}
