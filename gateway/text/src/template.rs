//! A chat template: Jinja source that turns messages into one prompt, with the environment that transformers gives it.
//!
//! Templates come with a model and are run with bounds: fuel (each instruction costs one), recursion, and the size of
//! the output. A template runs on a thread of its own with a large stack, so that deep values cannot overflow the
//! caller's.

use std::fmt;
use std::io::{self, Write};
use std::sync::LazyLock;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
use regex::Regex;

use crate::error::{exhausted, internal, invalid, Result, TextError};
use crate::pyjson::tojson;
use crate::strftime::{strftime, CivilTime};
use crate::tokenizer::TextTokenizer;

const NAME: &str = "chat_template";
const STACK_BYTES: usize = 256 << 20;

/// What one rendering may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub fuel: u64,
    pub fuel_per_message: u64,
    pub recursion: usize,
    pub output_bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Message {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
}

/// A variable of the template beside the messages.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub value: Value,
    /// It came with the request, so special tokens in it are text.
    pub from_user: bool,
}

#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub messages: Vec<Message>,
    pub variables: Vec<Variable>,
    pub now: CivilTime,
    pub limits: Limits,
    /// Whose special tokens in user text are to be guarded.
    pub tokenizer: Option<&'a TextTokenizer>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte offsets into `text`, ascending: no special token may be recognised across one.
    pub guards: Vec<usize>,
}

pub struct Template {
    environment: Environment<'static>,
    source: String,
}

/// What raise_exception was called with.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: Value) -> std::result::Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// Jinja's string filter and Python's f-strings show None, True and False with capitals; so does printing.
fn print(out: &mut minijinja::Output, _: &minijinja::State, value: &Value) -> std::result::Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Undefined => return Ok(()),
        ValueKind::String => return out.write_str(value.as_str().unwrap_or_default()).map_err(Error::from),
        _ => return write!(out, "{value}").map_err(Error::from),
    };
    out.write_str(&text).map_err(Error::from)
}

/// The source without the tags that only minijinja does not know.
fn without_generation_tags(source: &str) -> Result<String> {
    // transformers marks the assistant's text by {% generation %} for training; for a prompt the tags mean nothing.
    static TAG: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})").ok());
    let tag = TAG.as_ref().ok_or_else(|| internal("a regular expression did not compile"))?;
    let replaced = tag.replace_all(source, |c: &regex::Captures| {
        let statement = if c.get(2).is_some() { "endif" } else { "if true" };
        format!("{}{statement}{}", &c[1], &c[3])
    });
    Ok(replaced.into_owned())
}

impl Template {
    pub fn new(source: &str) -> Result<Template> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(print);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", |value: &Value, options: Kwargs| tojson(value, options));
        environment
            .add_template_owned(NAME, without_generation_tags(source)?)
            .map_err(|e| invalid(e.to_string()))?;
        Ok(Template { environment, source: source.to_owned() })
    }

    pub fn render(&self, request: &Request) -> Result<Rendered> {
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, || self.render_here(request))
                .map_err(|e| internal(format!("no thread for the chat template: {e}")))?
                .join()
                .map_err(|panic| crate::ffi::panic_error(panic.as_ref()))?
        })
    }

    fn render_here(&self, request: &Request) -> Result<Rendered> {
        let mark = self.unused_char(request)?;
        let guarded = |text: &str| -> Value {
            match request.tokenizer.and_then(|t| t.mark(text, mark)) {
                Some(marked) => Value::from(marked),
                None => Value::from(text),
            }
        };
        let messages: Value = request
            .messages
            .iter()
            .map(|message| {
                let mut fields = vec![("role", guarded(&message.role)), ("content", guarded(&message.content))];
                fields.extend(message.name.as_deref().map(|name| ("name", guarded(name))));
                fields.into_iter().collect::<Value>()
            })
            .collect();
        let mut variables = vec![
            ("messages".to_owned(), messages),
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
        ];
        for variable in &request.variables {
            let value = match variable.value.as_str() {
                Some(text) if variable.from_user => guarded(text),
                _ => variable.value.clone(),
            };
            variables.push((variable.name.clone(), value));
        }
        let context: Value = variables.into_iter().collect();

        let mut environment = self.environment.clone();
        let num_messages = request.messages.len() as u64;
        let limits = request.limits;
        environment.set_fuel(Some(limits.fuel.saturating_add(limits.fuel_per_message.saturating_mul(num_messages))));
        environment.set_recursion_limit(limits.recursion);
        let now = request.now;
        environment.add_function("strftime_now", move |format: &str| {
            strftime(format, &now).map_err(|directive| {
                Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {directive}"))
            })
        });

        let mut out = Bounded { bytes: Vec::new(), limit: limits.output_bytes, full: false };
        let template = environment.get_template(NAME).map_err(|e| internal(e.to_string()))?;
        if let Err(error) = template.render_to_write(context, &mut out) {
            return Err(if out.full {
                exhausted(format!("the chat template writes more than {} bytes", limits.output_bytes))
            } else {
                explain(&error)
            });
        }
        let text = String::from_utf8(out.bytes).map_err(|e| internal(e.to_string()))?;
        Ok(without_marks(text, mark))
    }

    /// A character that occurs neither in the template nor in what it is given.
    fn unused_char(&self, request: &Request) -> Result<char> {
        if request.tokenizer.is_none() {
            return Ok('\0');
        }
        let texts = || {
            let messages = request.messages.iter();
            let messages = messages.flat_map(|m| [m.role.as_str(), &m.content, m.name.as_deref().unwrap_or_default()]);
            let variables = request.variables.iter().filter_map(|v| v.value.as_str());
            messages.chain(variables).chain([self.source.as_str()])
        };
        // Private use, so that no filter sees a letter or a space in it.
        ('\u{10f000}'..='\u{10f0ff}')
            .find(|&c| !texts().any(|text| text.contains(c)))
            .ok_or_else(|| invalid("the messages use too many private characters"))
    }
}

fn without_marks(text: String, mark: char) -> Rendered {
    if mark == '\0' || !text.contains(mark) {
        return Rendered { text, guards: Vec::new() };
    }
    let mut rendered = Rendered { text: String::with_capacity(text.len()), guards: Vec::new() };
    for part in text.split(mark) {
        rendered.text.push_str(part);
        rendered.guards.push(rendered.text.len());
    }
    rendered.guards.pop();
    rendered
}

/// The template's own words for raise_exception, else what is wrong and in which line.
fn explain(error: &Error) -> TextError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut innermost = error;
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return invalid(message.clone());
        }
        if let Some(inner) = current.downcast_ref::<Error>() {
            innermost = inner;
        }
        cause = current.source();
    }
    let place = innermost.line().map_or(String::new(), |line| format!(" (line {line})"));
    match innermost.kind() {
        ErrorKind::OutOfFuel => exhausted(format!("the chat template runs too long: out of fuel{place}")),
        kind => {
            let what = innermost.detail().map_or(kind.to_string(), |detail| format!("{kind}: {detail}"));
            if what.contains("recursion limit exceeded") {
                exhausted(format!("the chat template calls itself too deeply: {what}{place}"))
            } else {
                invalid(format!("the chat template failed: {what}{place}"))
            }
        }
    }
}

/// Refuses to grow beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() > self.limit - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("the output is too large"));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
