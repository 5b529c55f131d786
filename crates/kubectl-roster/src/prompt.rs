//! Prompts. They use the terminal directly, because kubectl may use standard input and output.

use roster_api::printable;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use roster_credentials::password;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::caller::Caller;

const TERMINAL: &str = "/dev/tty";

/// A question to the user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// Text before the input.
    pub prompt: &'a str,
    /// What to do if there is no terminal, for the error message.
    pub hint: &'static str,
}

/// Asks for a code of the authenticator app.
pub(super) const CODE: Question<'static> = Question { prompt: "Code of the authenticator app: ", hint: "set --code" };

/// Asks for the caller's own password.
const CURRENT_PASSWORD: Question<'static> = Question { prompt: "Your password: ", hint: "set --password-file" };

/// Interaction with the user. Tests use a scripted implementation.
pub(super) trait Console {
    /// Asks a question and reads a line, with echo.
    fn read_line(&mut self, question: Question<'_>) -> Result<String>;
    /// Asks a question and reads a line without echo.
    fn read_secret(&mut self, question: Question<'_>) -> Result<SecretString>;
    /// Prints a line to standard error.
    fn print(&mut self, text: &str);
}

/// The terminal of the process.
pub(super) struct Terminal;

impl Console for Terminal {
    fn read_line(&mut self, question: Question<'_>) -> Result<String> {
        let line = ask_line(&printable::lines(question.prompt)).map_err(|error| unanswered(&error, question))?;
        let line = line.trim();
        if line.is_empty() {
            return Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), question));
        }
        Ok(line.to_owned())
    }

    fn read_secret(&mut self, question: Question<'_>) -> Result<SecretString> {
        let line = rpassword::prompt_password(printable::lines(question.prompt))
            .map_err(|error| unanswered(&error, question))?;
        let line = Zeroizing::new(line);
        password::accept_line(&line).context("the input")
    }

    fn print(&mut self, text: &str) {
        eprintln!("{}", printable::lines(text));
    }
}

fn ask_line(prompt: &str) -> io::Result<String> {
    let mut terminal = OpenOptions::new().read(true).write(true).open(TERMINAL)?;
    terminal.write_all(prompt.as_bytes())?;
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line)?;
    Ok(line)
}

fn unanswered(error: &io::Error, question: Question<'_>) -> anyhow::Error {
    let what = question.prompt.trim_end_matches([':', ' ']);
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return anyhow!("no input: {what}");
    }
    anyhow!("no terminal to ask for input: {what} ({error}); {}", question.hint)
}

/// Asks for a new password twice.
pub(super) fn new_password(console: &mut dyn Console, hint: &'static str) -> Result<SecretString> {
    let first = console.read_secret(Question { prompt: "New password: ", hint })?;
    let second = console.read_secret(Question { prompt: "New password again: ", hint })?;
    if first.expose_secret() != second.expose_secret() {
        bail!("the new passwords do not match; nothing was changed");
    }
    Ok(first)
}

/// Returns the password that confirms a change of the caller's own credentials, from `path` or the console. Returns
/// `None` if the change is for another user, or the caller has no password.
pub(super) fn current_password(
    path: Option<&Path>,
    caller: &Caller,
    other: Option<&String>,
    console: &mut dyn Console,
) -> Result<Option<SecretString>> {
    match (path, other) {
        (Some(_), Some(other)) => bail!("--password-file is for your own password, and {other} is not you"),
        (Some(path), None) => read_password_file(path).map(Some),
        (None, None) if caller.has_password() => console.read_secret(CURRENT_PASSWORD).map(Some),
        (None, _) => Ok(None),
    }
}

/// Reads a password from a file, or from standard input if the path is `-`.
pub(super) fn read_password_file(path: &Path) -> Result<SecretString> {
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| path.display().to_string())?)
    };
    let mut text = Zeroizing::new(String::new());
    let limit = password::MAX_BYTES as u64 + 3;
    source.take(limit).read_to_string(&mut text).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
    password::accept_line(&text).with_context(|| format!("the password in {}", path.display()))
}

/// Console with scripted answers.
#[cfg(test)]
#[derive(Default)]
pub(super) struct ScriptedConsole {
    /// Remaining answers, in order.
    pub answers: std::collections::VecDeque<&'static str>,
    /// Prompts so far.
    pub asked: Vec<String>,
    /// Printed texts so far.
    pub printed: Vec<String>,
}

#[cfg(test)]
impl ScriptedConsole {
    pub(super) fn new<const COUNT: usize>(answers: [&'static str; COUNT]) -> Self {
        Self { answers: answers.into(), ..Self::default() }
    }
}

#[cfg(test)]
impl Console for ScriptedConsole {
    fn read_line(&mut self, question: Question<'_>) -> Result<String> {
        self.asked.push(question.prompt.to_owned());
        self.answers.pop_front().map(str::to_owned).context(question.hint)
    }

    fn read_secret(&mut self, question: Question<'_>) -> Result<SecretString> {
        self.read_line(question).map(SecretString::from)
    }

    fn print(&mut self, text: &str) {
        self.printed.push(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_password_is_asked_for_twice() {
        let hint = "set --file";
        assert_eq!(new_password(&mut ScriptedConsole::new(["a", "a"]), hint).unwrap().expose_secret(), "a");
        assert!(
            new_password(&mut ScriptedConsole::new(["a", "b"]), hint).unwrap_err().to_string().contains("do not match")
        );
        assert_eq!(new_password(&mut ScriptedConsole::new(["a"]), hint).unwrap_err().to_string(), hint);
    }

    #[test]
    fn only_changes_for_oneself_are_confirmed_and_only_with_a_password() {
        let (jane, joan, mut console) = (Caller::jane(), "joan".to_owned(), ScriptedConsole::new(["s3cret"]));
        let typed = current_password(None, &jane, None, &mut console).unwrap().unwrap();
        assert_eq!((typed.expose_secret(), console.asked.as_slice()), ("s3cret", &["Your password: ".to_owned()][..]));
        let unused = &mut ScriptedConsole::default();
        assert!(current_password(None, &jane, Some(&joan), unused).unwrap().is_none(), "for another user");
        assert!(current_password(None, &Caller::default(), None, unused).unwrap().is_none(), "without a password");
        assert!(current_password(Some(Path::new("x")), &jane, Some(&joan), unused).is_err());
    }

    #[test]
    fn a_file_gives_a_password_without_the_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "correct horse\n").unwrap();
        assert_eq!(read_password_file(file.path()).unwrap().expose_secret(), "correct horse");
        std::fs::write(file.path(), "s3cret\nlines\n").unwrap();
        let error = format!("{:#}", read_password_file(file.path()).unwrap_err());
        assert!(error.contains("control character") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn without_a_terminal_the_error_has_the_hint() {
        let question = Question { prompt: "Password: ", hint: "set --password-file" };
        let error = unanswered(&io::Error::from(io::ErrorKind::NotFound), question).to_string();
        assert!(error.contains("Password") && error.ends_with("set --password-file"), "{error}");
        let error = unanswered(&io::ErrorKind::UnexpectedEof.into(), question).to_string();
        assert_eq!(error, "no input: Password");
    }
}
