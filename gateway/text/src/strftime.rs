//! `strftime_now(format)` of chat templates: Python's datetime.strftime in the C locale, for a time given by the caller.

/// The fields of C's struct tm, but with the month from 1 and the full year.
#[derive(Clone, Copy, Debug)]
pub struct CivilTime {
    pub year: i32,
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    /// 0 is Sunday.
    pub week_day: i32,
    /// 1 is the first of January.
    pub year_day: i32,
}

const MONTHS: [&str; 12] = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

fn name<'a>(names: &[&'a str], idx: i32) -> &'a str {
    usize::try_from(idx).ok().and_then(|i| names.get(i).copied()).unwrap_or("?")
}

/// The error is the directive that is not known.
pub fn strftime(format: &str, t: &CivilTime) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // "%-d" is "%d" without a leading zero.
        let bare = directive == Some('-');
        if bare {
            directive = chars.next();
        }
        let number = |value: i32, width: usize| if bare { value.to_string() } else { format!("{value:0width$}") };
        let hour12 = if t.hour % 12 == 0 { 12 } else { t.hour % 12 };
        let month = name(&MONTHS, t.month - 1);
        let day = name(&DAYS, t.week_day);
        let text = match directive {
            Some('Y') => t.year.to_string(),
            Some('y') => number(t.year.rem_euclid(100), 2),
            Some('m') => number(t.month, 2),
            Some('d') => number(t.day, 2),
            Some('e') if bare => t.day.to_string(),
            Some('e') => format!("{:2}", t.day),
            Some('H') => number(t.hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(t.minute, 2),
            Some('S') => number(t.second, 2),
            Some('j') => number(t.year_day, 3),
            Some('p') => if t.hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month.to_owned(),
            Some('b' | 'h') => month.get(..3).unwrap_or(month).to_owned(),
            Some('A') => day.to_owned(),
            Some('a') => day.get(..3).unwrap_or(day).to_owned(),
            Some('w') => t.week_day.to_string(),
            Some('F') => format!("{}-{:02}-{:02}", t.year, t.month, t.day),
            Some('T') => format!("{:02}:{:02}:{:02}", t.hour, t.minute, t.second),
            Some('D') => format!("{:02}/{:02}/{:02}", t.month, t.day, t.year.rem_euclid(100)),
            Some('R') => format!("{:02}:{:02}", t.hour, t.minute),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("%{other}")),
            None => return Err("%".to_owned()),
        };
        out.push_str(&text);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_give_what_python_gives() {
        let t = CivilTime { year: 2024, month: 7, day: 4, hour: 0, minute: 5, second: 9, week_day: 4, year_day: 186 };
        assert_eq!(strftime("%d %b %Y", &t).unwrap(), "04 Jul 2024");
        assert_eq!(strftime("%A, %B %-d, %y %j %w", &t).unwrap(), "Thursday, July 4, 24 186 4");
        assert_eq!(strftime("%I:%M:%S %p %H%%|%F %T|%e|%a %D %R", &t).unwrap(), "12:05:09 AM 00%|2024-07-04 00:05:09| 4|Thu 07/04/24 00:05");
        assert_eq!(strftime("%Q", &t), Err("%Q".to_owned()));
        assert_eq!(strftime("50%", &t), Err("%".to_owned()));
    }
}
