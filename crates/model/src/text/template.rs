use std::{fmt::Display, io, path::Path};

use minijinja::{
    Environment, ErrorKind,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde, Value},
};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::{Deserialize, Serialize};
use serde_json::{
    Map,
    ser::{Formatter, PrettyFormatter, Serializer},
};

use crate::{
    Error,
    text::{strftime, tokenizer::read_optional},
};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A checkpoint's Jinja template from a conversation to a prompt, in the dialect of Hugging Face's tokenizers.
///
/// It comes from `chat_template.jinja` or from `chat_template` in `tokenizer_config.json`, which holds one template or
/// several by name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    tokens: Map<String, serde_json::Value>,
}

const DEFAULT: &str = "default";
const WITH_TOOLS: &str = "tool_use";

impl ChatTemplate {
    /// Reads the template of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is none, [`Error::File`] if one of the two files is damaged.
    pub fn open(checkpoint: &Path) -> Result<Self, Error> {
        let config_path = checkpoint.join("tokenizer_config.json");
        let config: TokenizerConfig = match read_optional(&config_path)? {
            Some(json) => {
                serde_json::from_slice(&json).map_err(|e| Error::file(&config_path, e))?
            }
            None => TokenizerConfig::default(),
        };
        let jinja_path = checkpoint.join("chat_template.jinja");
        let (path, templates) = match (read_optional(&jinja_path)?, config.chat_template) {
            (Some(source), _) => {
                let source = String::from_utf8(source).map_err(|e| Error::file(&jinja_path, e))?;
                (jinja_path, Templates::One(source))
            }
            (None, Some(templates)) => (config_path, templates),
            (None, None) => {
                return Err(Error::Missing {
                    path: jinja_path,
                    purpose: "without it, or chat_template in tokenizer_config.json, a conversation cannot become a prompt",
                });
            }
        };
        let tokens = [
            ("bos_token", config.bos_token),
            ("eos_token", config.eos_token),
            ("pad_token", config.pad_token),
            ("unk_token", config.unk_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name.to_owned(), token?.into_text().into())))
        .collect();
        Self::new(templates, tokens).map_err(|e| Error::file(&path, e))
    }

    fn new(
        templates: Templates,
        tokens: Map<String, serde_json::Value>,
    ) -> Result<Self, minijinja::Error> {
        let mut environment = environment()?;
        match templates {
            Templates::One(source) => environment.add_template_owned(DEFAULT, source)?,
            Templates::Named(list) => {
                for named in list {
                    environment.add_template_owned(named.name, named.template)?;
                }
            }
        }
        Ok(Self {
            environment,
            tokens,
        })
    }

    /// The prompt for `messages`, up to where the assistant is to speak if `add_generation_prompt` says so.
    /// `variables` are what else the template may ask for, such as `tools` or `enable_thinking`.
    ///
    /// # Errors
    /// [`Error::Template`] with the template's own words if it refuses the conversation, or with the line that fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        variables: &Map<String, serde_json::Value>,
    ) -> Result<String, Error> {
        let failed = |e: minijinja::Error| Error::Template(e.to_string());
        let template = match self.environment.get_template(WITH_TOOLS) {
            Ok(template) if variables.contains_key("tools") => template,
            _ => self.environment.get_template(DEFAULT).map_err(failed)?,
        };
        let context: Map<String, serde_json::Value> = self
            .tokens
            .iter()
            .chain(variables)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let context = minijinja::context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            ..Value::from(Serde(context))
        };
        template.render(context).map_err(failed)
    }
}

/// Jinja as Hugging Face sets it up.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.add_function("raise_exception", |message: String| {
        Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        strftime::now(&format)
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
    });
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// `tojson` as in Python's `json.dumps(…, ensure_ascii=False)`; Jinja's own would escape for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(invalid("tojson(ensure_ascii=true) is not supported"));
    }
    options.assert_all_used()?;
    let json = match indent {
        Some(width) => dump(
            value,
            PrettyFormatter::with_indent(" ".repeat(width.min(16)).as_bytes()),
        ),
        None => dump(value, Spaced),
    };
    String::from_utf8(json?).map_err(invalid)
}

fn dump(value: &Value, formatter: impl Formatter) -> Result<Vec<u8>, minijinja::Error> {
    let mut json = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut json, formatter))
        .map_err(invalid)?;
    Ok(json)
}

fn invalid(reason: impl Display) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

/// JSON on one line with a space after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The fields of `tokenizer_config.json` that a template needs.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

impl Token {
    fn into_text(self) -> String {
        match self {
            Token::Text(text) | Token::Added { content: text } => text,
        }
    }
}

#[cfg(test)]
mod tests;
