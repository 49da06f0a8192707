//! The description of the interface is one: in the language that others read it by.

use super::INTERFACE;

/// A type as Varlink writes it: `?`, `[]` and `[string]` before a name or a list of fields. What is left behind it.
fn after_type(text: &str) -> Option<&str> {
    let text = text.trim_start_matches('?');
    let text = text.strip_prefix("[]").or_else(|| text.strip_prefix("[string]")).unwrap_or(text);
    if text.starts_with('(') {
        return after_fields(text);
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let name = &text[..end];
    let known = ["bool", "int", "float", "string", "object"].contains(&name)
        || INTERFACE.contains(&format!("\ntype {name} ("));
    known.then_some(&text[end..])
}

/// `(name: type, …)`.
fn after_fields(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('(')?.trim_start();
    while !rest.starts_with(')') {
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|&end| end > 0)?;
        let field = rest[end..].trim_start();
        // Of an enumeration names alone.
        let after = field.strip_prefix(':').map_or(Some(field), |it| after_type(it.trim_start()))?;
        rest = after.trim_start();
        rest = rest.strip_prefix(',').map_or(rest, str::trim_start);
    }
    rest.strip_prefix(')')
}

/// What others generate their clients from (varlink.org/Interface-Definition).
#[test]
fn the_interface_is_written_in_its_language() {
    let text: String = INTERFACE
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .fold(String::from("\n"), |text, line| text + line + "\n");
    let mut rest = text.trim_start().strip_prefix("interface org.memgov\n").unwrap().trim_start();
    while !rest.is_empty() {
        let (word, after) = rest.split_once(' ').unwrap();
        let body = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric()).trim_start();
        let shown = rest.lines().next().unwrap();
        rest = after_fields(body).unwrap_or_else(|| panic!("not a {word}: {shown}")).trim_start();
        match word {
            "type" | "error" => {}
            "method" => {
                let answer = rest.strip_prefix("->").unwrap_or_else(|| panic!("no answer: {shown}"));
                rest = after_fields(answer.trim_start())
                    .unwrap_or_else(|| panic!("not an answer: {shown}"))
                    .trim_start();
            }
            _ => panic!("neither a type, a method nor an error: {shown}"),
        }
    }
}
