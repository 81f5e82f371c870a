//! Typed access to the fields of a JSON object; every error names the field.

use serde_json::{Map, Value};

use super::ConfigError;

/// Most numbers in a list; a list of blocks or of token ids is far shorter.
const LONGEST_LIST: usize = 1 << 12;

/// The object of a configuration file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(config: &'a Value) -> Result<Self, ConfigError> {
        match config {
            Value::Object(object) => Ok(Self { object }),
            _ => Err(ConfigError::NotAnObject),
        }
    }

    /// The field `name` unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The object in the field `name`, if there is one.
    pub(super) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, ConfigError> {
        self.typed(name, "an object", |value| {
            let object = value.as_object()?;
            Some(Fields { object })
        })
    }

    /// Whether there is no field at all.
    pub(super) fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// All fields, which are objects; `name` is where they are.
    pub(super) fn objects(&self, name: &'static str) -> Result<Vec<Fields<'a>>, ConfigError> {
        let object = |value: &'a Value| match value.as_object() {
            Some(object) => Ok(Fields { object }),
            None => Err(ConfigError::Type {
                field: name,
                expected: "a map of objects",
            }),
        };
        self.object.values().map(object).collect()
    }

    /// A count from 1 to `limit`, if there is one.
    pub(super) fn size(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.typed(name, "a whole number", Value::as_u64)? else {
            return Ok(None);
        };
        match usize::try_from(value) {
            Ok(size) if (1..=limit).contains(&size) => Ok(Some(size)),
            _ => Err(ConfigError::Implausible {
                field: name,
                value: value.to_string(),
                expected: format!("1 to {limit}"),
            }),
        }
    }

    /// A finite number above zero, if there is one.
    pub(super) fn positive(&self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        match self.typed(name, "a number", Value::as_f64)? {
            Some(value) if value <= 0.0 => Err(ConfigError::Implausible {
                field: name,
                value: value.to_string(),
                expected: "above zero".to_owned(),
            }),
            other => Ok(other),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Result<Option<bool>, ConfigError> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A list of at most [`LONGEST_LIST`] whole numbers, or a single one; empty if there is none.
    pub(super) fn numbers(&self, name: &'static str) -> Result<Vec<u32>, ConfigError> {
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let list = self.typed(
            name,
            "a whole number or a short list of them",
            |value| match value {
                Value::Array(list) if list.len() > LONGEST_LIST => None,
                Value::Array(list) => list.iter().map(number).collect(),
                single => Some(vec![number(single)?]),
            },
        )?;
        Ok(list.unwrap_or_default())
    }

    /// A list of strings, if there is one.
    pub(super) fn texts(&self, name: &'static str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// What `read` makes of the field; `None` if it is absent or null.
    fn typed<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ConfigError::Type { field, expected }),
        }
    }
}

/// Turns a field that must be there into an error if it is not.
pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing(field))
}
