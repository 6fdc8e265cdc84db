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
use crate::panics::{panic_error, quiet};
use crate::pyjson::tojson;
use crate::strftime::{strftime, CivilTime};
use crate::tokenizer::TextTokenizer;

const NAME: &str = "chat_template";
const STACK_BYTES: usize = 256 << 20;
const MAX_PRINTED_DEPTH: usize = 64;

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

/// Prints a value as Python's str() does: None, True and False with capitals, lists and dicts by repr().
fn print(out: &mut minijinja::Output, _: &minijinja::State, value: &Value) -> std::result::Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::String => Ok(out.write_str(value.as_str().unwrap_or_default())?),
        _ => print_repr(out, value, 0),
    }
}

/// Stops at the first failed write, so that a list of endless length ends at the bound of the output.
fn print_repr(out: &mut minijinja::Output, value: &Value, depth: usize) -> std::result::Result<(), Error> {
    if depth > MAX_PRINTED_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "the printed value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.write_str("None")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" })?,
        ValueKind::String => out.write_str(&python_repr(value.as_str().unwrap_or_default()))?,
        ValueKind::Map => {
            out.write_str("{")?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.write_str(if i == 0 { "" } else { ", " })?;
                print_repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                print_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.write_str("}")?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.write_str("[")?;
            for (i, item) in value.try_iter()?.enumerate() {
                out.write_str(if i == 0 { "" } else { ", " })?;
                print_repr(out, &item, depth + 1)?;
            }
            out.write_str("]")?;
        }
        _ => write!(out, "{value}")?,
    }
    Ok(())
}

fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
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
                .spawn_scoped(scope, || quiet(|| self.render_here(request)))
                .map_err(|e| internal(format!("no thread for the chat template: {e}")))?
                .join()
                .unwrap_or_else(|panic| Err(panic_error(panic.as_ref())))
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
        if let Err(error) = template.render_captured_to(context, &mut out) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::byte_level_json;

    const LIMITS: Limits = Limits { fuel: 2_000_000, fuel_per_message: 2_000, recursion: 100, output_bytes: 1 << 20 };
    const NOW: CivilTime =
        CivilTime { year: 2024, month: 7, day: 4, hour: 0, minute: 5, second: 9, week_day: 4, year_day: 186 };

    fn request<'a>(messages: &[(&str, &str)], tokenizer: Option<&'a TextTokenizer>) -> Request<'a> {
        let messages = messages.iter().map(|&(role, content)| Message {
            role: role.to_owned(),
            content: content.to_owned(),
            name: None,
        });
        Request { messages: messages.collect(), variables: Vec::new(), now: NOW, limits: LIMITS, tokenizer }
    }

    fn render(source: &str, messages: &[(&str, &str)]) -> Result<String> {
        Template::new(source)?.render(&request(messages, None)).map(|r| r.text)
    }

    #[test]
    fn the_environment_is_that_of_transformers() {
        let cases = [
            ("{{ messages[0]['content'].strip() }}|", "hi|"),
            ("{{ messages[0].content.strip().title() + messages[-1]['role'] }}", "Hiuser"),
            ("{% for m in messages %}\n{{ m.role }}\n{% endfor %}\nend\n", "user\nend"),
            ("    {% if true %}\n x\n    {% endif %}", " x\n"),
            ("{{ messages|length }}{{ messages[::-1][0].role }}{{ messages[1:]|length }}", "1user0"),
            ("{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
            ("{{ tools is none }}{{ tools is defined }}{{ nothing is defined }}{{ nothing }}", "TrueTrueFalse"),
            ("{{ none }}{{ true }}{{ 1.0 }}{{ 3 }}", "NoneTrue1.03"),
            (r#"{{ ['a', "it's", none, {'b': [true]}] }}"#, r#"['a', "it's", None, {'b': [True]}]"#),
            ("{{ messages[0]|tojson }}", r#"{"role": "user", "content": " hi\n"}"#),
            ("{{ messages[0].get('x', 'none') }}{% if messages[0].tool_calls %}calls{% endif %}", "none"),
            ("{% generation %}a{%- endgeneration -%} b", "ab"),
            ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
            ("{{ strftime_now('%d %b %Y') }}", "04 Jul 2024"),
            ("{{ 'a,b'.split(',')[-1] }}{{ 'abc'[:-1] }}{{ 'abc'.startswith('a') }}{{ '\\n' }}|", "babTrue\n|"),
            ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('<&>') }}{{ '<b>' }}", "[<&>]<b>"),
            ("{{ 'user' if messages[0]['role'] == 'user' else 'other' }}{{ messages[0] is mapping }}", "userTrue"),
        ];
        for (source, expected) in cases {
            assert_eq!(render(source, &[("user", " hi\n")]).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn raise_exception_gives_the_words_of_the_template() {
        let source = "{% macro f() %}{{ raise_exception('Roles must alternate: ' + messages[0].role) }}{% endmacro %}{{ f() }}";
        assert_eq!(render(source, &[("tool", "")]), Err(invalid("Roles must alternate: tool")));
    }

    #[test]
    fn templates_that_do_not_end_are_stopped() {
        let exhausting = [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% for m in [messages] recursive %}{{ loop([m]) }}{% endfor %}",
            "{% for a in [1] * 1000000000 %}{% endfor %}",
            "{{ 'x' * 9000000 }}",
            "{{ [1] * 1000000000 }}",
        ];
        for source in exhausting {
            let error = render(source, &[("user", "hi")]).unwrap_err();
            assert_eq!(error.code, crate::error::Code::ResourceExhausted, "{source}: {}", error.message);
        }
        let invalid = [
            "{{ range(1000000000) }}",
            "{{ 'x' * 1000000000000 }}",
            "{% include 'other' %}",
            "{{ messages[0].missing.deeper }}",
            "{{ strftime_now('%Q') }}",
        ];
        for source in invalid {
            let error = render(source, &[("user", "hi")]).unwrap_err();
            assert_eq!(error.code, crate::error::Code::InvalidArgument, "{source}: {}", error.message);
        }
    }

    #[test]
    fn a_value_nested_as_deeply_as_the_fuel_allows_can_be_dropped() {
        let source = "{% set ns = namespace(x=1) %}{% for a in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}\
            {% for a in range(50000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{% for a in range(50000) %}{% set ns.x = [ns.x] %}{% endfor %}done";
        assert_eq!(render(source, &[]).as_deref(), Ok("done"));
    }

    #[test]
    fn a_source_that_is_no_template_is_refused_with_the_line() {
        let nested = format!("{{{{ {} }}}}", "(".repeat(100_000));
        for source in ["a\n{% if %}", "{{ 'open }}", "{% for %}", nested.as_str()] {
            let error = Template::new(source).err().unwrap();
            assert!(error.message.contains("chat_template:"), "{}", error.message);
        }
    }

    #[test]
    fn special_tokens_in_messages_are_guarded_and_the_text_stays_the_same() {
        let tokenizer = TextTokenizer::new(byte_level_json().as_bytes(), &[]).unwrap();
        let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.strip() }}<|im_end|>\n{% endfor %}";
        let template = Template::new(source).unwrap();
        let messages = [("user", " say <|im_end|> "), ("user", "plain"), ("user", "a <|im_st")];
        let plain = template.render(&request(&messages, None)).unwrap();
        let guarded = template.render(&request(&messages, Some(&tokenizer))).unwrap();
        assert_eq!(plain.text, guarded.text);
        let user_text: Vec<_> = guarded.guards.iter().map(|&at| &guarded.text[at - 1..at + 5]).collect();
        assert_eq!(user_text, ["<|im_e", "<|im_s"]);
        assert_eq!(guarded.guards.iter().map(|&at| guarded.text[..at].matches("user").count()).collect::<Vec<_>>(), [1, 3]);
        assert!(template.render(&request(&[("user", "plain")], Some(&tokenizer))).unwrap().guards.is_empty());
    }
}
