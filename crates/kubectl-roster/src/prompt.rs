//! What is asked of people, on their terminal: standard input and output may belong to kubectl.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use roster_credentials::password;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::oneself::Oneself;
use super::output::printable;

const TERMINAL: &str = "/dev/tty";

/// Something to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// What stands before the answer.
    pub prompt: &'a str,
    /// What to do where there is nobody to ask.
    pub otherwise: &'static str,
}

/// The code of the authenticator app.
pub(super) const CODE: Question<'static> =
    Question { prompt: "Code of the authenticator app: ", otherwise: "give it by --code" };

/// The password of whoever is logged in.
const CURRENT_PASSWORD: Question<'static> =
    Question { prompt: "Your password: ", otherwise: "give it by --password-file" };

/// Whoever is asked.
pub(super) trait Person {
    /// Asks for something that may be seen.
    fn line(&mut self, question: Question<'_>) -> Result<String>;
    /// Asks for something that nobody may see.
    fn secret(&mut self, question: Question<'_>) -> Result<SecretString>;
    /// Tells something.
    fn tell(&mut self, text: &str);
}

/// Whoever sits at the terminal.
pub(super) struct Terminal;

impl Person for Terminal {
    fn line(&mut self, question: Question<'_>) -> Result<String> {
        let line = ask_line(&printable(question.prompt)).map_err(|error| unanswered(&error, question))?;
        let line = line.trim();
        if line.is_empty() {
            return Err(unanswered(&io::ErrorKind::UnexpectedEof.into(), question));
        }
        Ok(line.to_owned())
    }

    fn secret(&mut self, question: Question<'_>) -> Result<SecretString> {
        let line =
            rpassword::prompt_password(printable(question.prompt)).map_err(|error| unanswered(&error, question))?;
        let line = Zeroizing::new(line);
        password::accept_line(&line).context("what was typed")
    }

    fn tell(&mut self, text: &str) {
        eprintln!("{}", printable(text));
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
        return anyhow!("nothing was typed for this: {what}");
    }
    anyhow!("there is no terminal to ask on for this: {what} ({error}); {}", question.otherwise)
}

/// Asks for a new password until it is certain what was meant: twice.
pub(super) fn new_password(person: &mut dyn Person, otherwise: &'static str) -> Result<SecretString> {
    let first = person.secret(Question { prompt: "New password: ", otherwise })?;
    let second = person.secret(Question { prompt: "New password again: ", otherwise })?;
    if first.expose_secret() != second.expose_secret() {
        bail!("the two new passwords differ; nothing was changed");
    }
    Ok(first)
}

/// The password that confirms a change of one's own credential; from `path`, or else asked for. `None` for a change of
/// somebody else's, and for users who have no password.
pub(super) fn confirmation(
    path: Option<&Path>,
    oneself: &Oneself,
    other: Option<&String>,
    person: &mut dyn Person,
) -> Result<Option<SecretString>> {
    match (path, other) {
        (Some(_), Some(other)) => bail!("--password-file is for your own password, and {other} is not you"),
        (Some(path), None) => password_in(path).map(Some),
        (None, None) if oneself.has_password() => person.secret(CURRENT_PASSWORD).map(Some),
        (None, _) => Ok(None),
    }
}

/// Reads a password from a file. `-`: standard input.
pub(super) fn password_in(path: &Path) -> Result<SecretString> {
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(|| path.display().to_string())?)
    };
    let mut text = Zeroizing::new(String::new());
    let limit = password::MAX_BYTES as u64 + 3;
    source.take(limit).read_to_string(&mut text).with_context(|| format!("{} is no UTF-8 text", path.display()))?;
    password::accept_line(&text).with_context(|| format!("the password in {}", path.display()))
}

/// Somebody who answers as planned.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Script {
    /// What is answered, in this order.
    pub answers: std::collections::VecDeque<&'static str>,
    /// What was asked.
    pub asked: Vec<String>,
    /// What was told.
    pub told: Vec<String>,
}

#[cfg(test)]
impl Script {
    /// Somebody who gives these answers.
    pub(super) fn new<const COUNT: usize>(answers: [&'static str; COUNT]) -> Self {
        Self { answers: answers.into(), ..Self::default() }
    }
}

#[cfg(test)]
impl Person for Script {
    fn line(&mut self, question: Question<'_>) -> Result<String> {
        self.asked.push(question.prompt.to_owned());
        self.answers.pop_front().map(str::to_owned).context(question.otherwise)
    }

    fn secret(&mut self, question: Question<'_>) -> Result<SecretString> {
        self.line(question).map(SecretString::from)
    }

    fn tell(&mut self, text: &str) {
        self.told.push(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_password_is_asked_for_twice() {
        let otherwise = "give it by a file";
        assert_eq!(new_password(&mut Script::new(["a", "a"]), otherwise).unwrap().expose_secret(), "a");
        assert!(new_password(&mut Script::new(["a", "b"]), otherwise).unwrap_err().to_string().contains("differ"));
        assert_eq!(new_password(&mut Script::new(["a"]), otherwise).unwrap_err().to_string(), otherwise);
    }

    #[test]
    fn only_those_who_have_a_password_confirm_with_it_and_only_for_themselves() {
        let (jane, joan, mut person) = (Oneself::jane(), "joan".to_owned(), Script::new(["s3cret"]));
        let typed = confirmation(None, &jane, None, &mut person).unwrap().unwrap();
        assert_eq!((typed.expose_secret(), person.asked.as_slice()), ("s3cret", &["Your password: ".to_owned()][..]));
        let nobody = &mut Script::default();
        assert!(confirmation(None, &jane, Some(&joan), nobody).unwrap().is_none(), "for somebody else");
        assert!(confirmation(None, &Oneself::default(), None, nobody).unwrap().is_none(), "without a password");
        assert!(confirmation(Some(Path::new("x")), &jane, Some(&joan), nobody).is_err());
    }

    #[test]
    fn a_file_gives_a_password_without_the_line_break() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "correct horse\n").unwrap();
        assert_eq!(password_in(file.path()).unwrap().expose_secret(), "correct horse");
        std::fs::write(file.path(), "s3cret\nlines\n").unwrap();
        let error = format!("{:#}", password_in(file.path()).unwrap_err());
        assert!(error.contains("control character") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn without_a_terminal_the_error_says_what_to_do() {
        let question = Question { prompt: "Password: ", otherwise: "give it by --password-file" };
        let error = unanswered(&io::Error::from(io::ErrorKind::NotFound), question).to_string();
        assert!(error.contains("Password") && error.ends_with("give it by --password-file"), "{error}");
        let error = unanswered(&io::ErrorKind::UnexpectedEof.into(), question).to_string();
        assert_eq!(error, "nothing was typed for this: Password");
    }
}
