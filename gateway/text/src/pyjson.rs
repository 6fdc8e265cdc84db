//! `tojson` as transformers defines it for chat templates: Python's json.dumps, not the HTML-safe form of Jinja.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

const MAX_DEPTH: usize = 64;

struct Style {
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

pub fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Option<usize>> = options.get("indent")?;
    let separators: Option<Option<Vec<String>>> = options.get("separators")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let indent = indent.flatten();
    if indent.is_some_and(|n| n > 64) {
        return Err(bad("tojson: the indent is too large"));
    }
    let (item_separator, key_separator) = match separators.flatten().as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(bad("tojson: separators must be two texts")),
    };
    let style = Style {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    let mut out = String::new();
    write(&mut out, value, &style, 0)?;
    Ok(out)
}

fn bad(message: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(bad("tojson: the value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => quote(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            let items = keys.into_iter().map(|key| (value.get_item(&key), Some(key)));
            write_items(out, items, ['{', '}'], style, depth)?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            write_items(out, value.try_iter()?.map(|item| (Ok(item), None)), ['[', ']'], style, depth)?;
        }
        _ => return Err(bad("tojson: the value has no JSON form")),
    }
    Ok(())
}

fn write_items(
    out: &mut String,
    items: impl Iterator<Item = (Result<Value, Error>, Option<Value>)>,
    [open, close]: [char; 2],
    style: &Style,
    depth: usize,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    out.push(open);
    let mut empty = true;
    for (item, key) in items {
        if !empty {
            out.push_str(&style.item_separator);
        }
        empty = false;
        new_line(out, depth + 1);
        if let Some(key) = key {
            quote(out, key.as_str().ok_or_else(|| bad("tojson: a key is no text"))?, style.ensure_ascii);
            out.push_str(&style.key_separator);
        }
        write(out, &item?, style, depth + 1)?;
    }
    if !empty {
        new_line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn quote(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Python's repr of a float, which json.dumps uses.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{number:?}");
    // Rust writes 1e16 and 1e-7 where Python writes 1e+16 and 1e-07.
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{context, Environment};

    fn render(expression: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment.render_str(&format!("{{{{ {expression} }}}}"), context!()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        assert_eq!(render(r#"{"a": [1, 2.0, true, none], "b<&'": "\n\"é"}|tojson"#), r#"{"a": [1, 2.0, true, null], "b<&'": "\n\"é"}"#);
        assert_eq!(render(r#"[1e16, 0.0000001, 1.5]|tojson"#), "[1e+16, 1e-07, 1.5]");
        assert_eq!(render(r#""é😀"|tojson(ensure_ascii=true)"#), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(render(r#"{"a": [], "b": [1, {}]}|tojson(indent=2)"#), "{\n  \"a\": [],\n  \"b\": [\n    1,\n    {}\n  ]\n}");
        assert_eq!(render(r#"{"b": 1, "a": 2}|tojson(sort_keys=true, separators=[",", ":"])"#), r#"{"a":2,"b":1}"#);
        assert!(render("missing|tojson").contains("no JSON form"));
    }
}
