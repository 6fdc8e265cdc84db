//! The C interface of moe_text.h: the only unsafe code of the crate.
//!
//! Every entry that does more than read a number runs inside `quiet`, so that a panic of ours or of a library ends there.
//! Pointers are checked for null where the header allows null; for the rest the header's rules hold.

use std::sync::Arc;

use minijinja::Value;

use crate::error::{internal, invalid, Code, Result, TextError};
use crate::extract::Specials;
use crate::panics::quiet;
use crate::strftime::CivilTime;
use crate::template::{Limits, Message, Request, Template, Variable};
use crate::tokenizer::{decode, TextStream, TextTokenizer};

pub struct MoeTextTokenizer(Arc<TextTokenizer>);
pub struct MoeTextStream(TextStream);
pub struct MoeTextTemplate(Template);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MoeTextView {
    data: *const u8,
    size: usize,
}

/// MoeTextBytes, MoeTextIds and MoeTextOffsets of the header: the parts of a Vec.
#[repr(C)]
pub struct Owned<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

#[repr(C)]
pub struct MoeTextMessage {
    role: MoeTextView,
    content: MoeTextView,
    name: MoeTextView,
    has_name: bool,
}

#[repr(C)]
pub struct MoeTextVariable {
    name: MoeTextView,
    string_value: MoeTextView,
    int_value: i64,
    double_value: f64,
    kind: i32,
    from_user: bool,
}

#[repr(C)]
pub struct MoeTextTime {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
    week_day: i32,
    year_day: i32,
}

#[repr(C)]
pub struct MoeTextLimits {
    fuel: u64,
    fuel_per_message: u64,
    recursion: usize,
    output_bytes: usize,
}

impl<T> Owned<T> {
    fn new(values: Vec<T>) -> Owned<T> {
        let mut values = std::mem::ManuallyDrop::new(values);
        Owned { data: values.as_mut_ptr(), size: values.len(), capacity: values.capacity() }
    }

    /// SAFETY: `owned` is null, or was zeroed, or was made by `new` and not changed since.
    unsafe fn free(owned: *mut Owned<T>) {
        if let Some(owned) = owned.as_mut() {
            if !owned.data.is_null() {
                drop(Vec::from_raw_parts(owned.data, owned.size, owned.capacity));
            }
            *owned = Owned { data: std::ptr::null_mut(), size: 0, capacity: 0 };
        }
    }
}

/// SAFETY: `data` points to `size` values that live and do not change during 'a, or `size` is 0.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 || data.is_null() {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

impl MoeTextView {
    /// SAFETY: as for `slice`.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        slice(self.data, self.size)
    }

    /// SAFETY: as for `slice`.
    unsafe fn text<'a>(self, what: &str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| invalid(format!("{what} is not valid UTF-8 at byte {}", e.valid_up_to())))
    }
}

/// SAFETY: `error` is null or points to a MoeTextBytes that owns nothing.
unsafe fn guard(error: *mut Owned<u8>, work: impl FnOnce() -> Result<()>) -> i32 {
    match quiet(work) {
        Ok(()) => 0,
        Err(TextError { code, message }) => {
            if !error.is_null() {
                error.write(Owned::new(message.into_bytes()));
            }
            code as i32
        }
    }
}

fn id_of(id: i32) -> Result<u32> {
    u32::try_from(id).map_err(|_| invalid(format!("token id {id} is negative")))
}

// SAFETY of all functions below: the caller keeps the rules at the head of moe_text.h, so inputs point to what their
// type says, outputs may be written, and no handle is used while or after it is freed.

#[no_mangle]
pub unsafe extern "C" fn moe_text_bytes_free(bytes: *mut Owned<u8>) {
    Owned::free(bytes);
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_ids_free(ids: *mut Owned<i32>) {
    Owned::free(ids);
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_offsets_free(offsets: *mut Owned<usize>) {
    Owned::free(offsets);
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_tokenizer_new(
    json: MoeTextView,
    specials: *const MoeTextView,
    num_specials: usize,
    out: *mut *mut MoeTextTokenizer,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let specials: Result<Vec<&str>> =
            slice(specials, num_specials).iter().map(|view| view.text("a special token")).collect();
        let tokenizer = TextTokenizer::new(json.bytes(), &specials?)?;
        out.write(Box::into_raw(Box::new(MoeTextTokenizer(Arc::new(tokenizer)))));
        Ok(())
    })
}

/// Frees a handle made by Box::into_raw; null is allowed. A panic while dropping is swallowed: there is no caller to tell.
unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        let _ = quiet(|| {
            drop(Box::from_raw(handle));
            Ok(())
        });
    }
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_tokenizer_free(tokenizer: *mut MoeTextTokenizer) {
    free(tokenizer);
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_encode(
    tokenizer: *const MoeTextTokenizer,
    text: MoeTextView,
    add_special: bool,
    parse_special: bool,
    guards: *const usize,
    num_guards: usize,
    out: *mut Owned<i32>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let guards = slice(guards, num_guards);
        let specials = if parse_special { Specials::Guarded(guards) } else { Specials::None };
        let ids = (*tokenizer).0.encode(text.text("the text")?, add_special, specials)?;
        // TextTokenizer::new refuses ids that do not fit.
        out.write(Owned::new(ids.into_iter().map(|id| id as i32).collect()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_decode(
    tokenizer: *const MoeTextTokenizer,
    ids: *const i32,
    num_ids: usize,
    skip_special: bool,
    out: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let ids: Result<Vec<u32>> = slice(ids, num_ids).iter().map(|&id| id_of(id)).collect();
        out.write(Owned::new(decode(&(*tokenizer).0, &ids?, skip_special)?.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_token_bytes(
    tokenizer: *const MoeTextTokenizer,
    id: i32,
    out: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        out.write(Owned::new((*tokenizer).0.token_bytes(id_of(id)?)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_num_ids(tokenizer: *const MoeTextTokenizer) -> i32 {
    (*tokenizer).0.num_ids() as i32
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_is_special(tokenizer: *const MoeTextTokenizer, id: i32) -> bool {
    quiet(|| Ok((*tokenizer).0.is_special_id(id_of(id)?))).unwrap_or(false)
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_token_to_id(tokenizer: *const MoeTextTokenizer, token: MoeTextView) -> i32 {
    quiet(|| Ok((*tokenizer).0.token_to_id(token.text("the token")?))).ok().flatten().map_or(-1, |id| id as i32)
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_stream_new(
    tokenizer: *const MoeTextTokenizer,
    skip_special: bool,
    out: *mut *mut MoeTextStream,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let stream = MoeTextStream(TextStream::new((*tokenizer).0.clone(), skip_special));
        out.write(Box::into_raw(Box::new(stream)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_stream_append(
    stream: *mut MoeTextStream,
    id: i32,
    out: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        out.write(Owned::new((*stream).0.append(id_of(id)?)?.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_stream_flush(
    stream: *mut MoeTextStream,
    out: *mut Owned<u8>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        out.write(Owned::new((*stream).0.flush()?.into_bytes()));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_stream_free(stream: *mut MoeTextStream) {
    free(stream);
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_template_new(
    source: MoeTextView,
    out: *mut *mut MoeTextTemplate,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let template = Template::new(source.text("the chat template")?)?;
        out.write(Box::into_raw(Box::new(MoeTextTemplate(template))));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_template_free(chat_template: *mut MoeTextTemplate) {
    free(chat_template);
}

/// SAFETY: as for `slice`, for all views in `message`.
unsafe fn message(message: &MoeTextMessage) -> Result<Message> {
    Ok(Message {
        role: message.role.text("a message's role")?.to_owned(),
        content: message.content.text("a message's content")?.to_owned(),
        name: if message.has_name { Some(message.name.text("a message's name")?.to_owned()) } else { None },
    })
}

/// SAFETY: as for `slice`, for all views in `variable`.
unsafe fn variable(variable: &MoeTextVariable) -> Result<Variable> {
    let name = variable.name.text("a variable's name")?.to_owned();
    let value = match variable.kind {
        0 => Value::from(variable.string_value.text("a variable's value")?),
        1 => Value::from(variable.int_value != 0),
        2 => Value::from(variable.int_value),
        3 => Value::from(variable.double_value),
        kind => return Err(internal(format!("unknown kind of variable {kind}"))),
    };
    Ok(Variable { name, value, from_user: variable.from_user })
}

#[no_mangle]
pub unsafe extern "C" fn moe_text_render(
    chat_template: *const MoeTextTemplate,
    guard_for: *const MoeTextTokenizer,
    messages: *const MoeTextMessage,
    num_messages: usize,
    variables: *const MoeTextVariable,
    num_variables: usize,
    now: *const MoeTextTime,
    limits: *const MoeTextLimits,
    out: *mut Owned<u8>,
    guards: *mut Owned<usize>,
    error: *mut Owned<u8>,
) -> i32 {
    guard(error, || {
        let (now, limits) = (&*now, &*limits);
        let messages: Result<Vec<Message>> = slice(messages, num_messages).iter().map(|m| message(m)).collect();
        let variables: Result<Vec<Variable>> = slice(variables, num_variables).iter().map(|v| variable(v)).collect();
        let rendered = (*chat_template).0.render(&Request {
            messages: messages?,
            variables: variables?,
            now: CivilTime {
                year: now.year,
                month: now.month,
                day: now.day,
                hour: now.hour,
                minute: now.minute,
                second: now.second,
                week_day: now.week_day,
                year_day: now.year_day,
            },
            limits: Limits {
                fuel: limits.fuel,
                fuel_per_message: limits.fuel_per_message,
                recursion: limits.recursion,
                output_bytes: limits.output_bytes,
            },
            tokenizer: guard_for.as_ref().map(|tokenizer| &*tokenizer.0),
        })?;
        out.write(Owned::new(rendered.text.into_bytes()));
        guards.write(Owned::new(rendered.guards));
        Ok(())
    })
}

/// The codes are part of the interface.
const _: () = assert!(Code::InvalidArgument as i32 == 3 && Code::ResourceExhausted as i32 == 8 && Code::Internal as i32 == 13);
