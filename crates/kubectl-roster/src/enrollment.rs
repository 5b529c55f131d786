//! A second factor on the way to an authenticator app.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use roster_api::credentials::Enrollment;

use super::prompt::Person;

/// Shows the seed, as a QR code and as text.
pub(super) fn present(enrollment: &Enrollment, person: &mut dyn Person) {
    person.tell("Scan this with an authenticator app, or type the secret into it:\n");
    if let Some(drawing) = draw(&enrollment.url) {
        person.tell(&drawing);
    }
    person.tell(&format!("\nSecret: {}\nURL:    {}\n", enrollment.secret, enrollment.url));
}

/// Recovery codes, and what they are.
pub(super) fn recovery_codes(codes: &[String]) -> String {
    format!(
        "Recovery codes, each good for one login without the app. Keep them safe, they are not shown again:\n\n{}\n",
        codes.join("\n")
    )
}

/// The QR code for a terminal, two modules a character; nothing where the text is too long for one.
fn draw(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    // Light modules are drawn, for most terminals are dark.
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Script;

    #[test]
    fn the_seed_is_shown_in_three_ways() {
        let enrollment =
            Enrollment { secret: "ABCDEFGH".to_owned(), url: "otpauth://totp/x?secret=ABCDEFGH".to_owned() };
        let mut person = Script::default();
        present(&enrollment, &mut person);
        let told = person.told.join("\n");
        assert!(told.contains("Secret: ABCDEFGH") && told.contains(&enrollment.url) && told.contains('▀'));
    }

    #[test]
    fn a_drawing_is_square_and_has_a_margin() {
        let drawing = draw("otpauth://totp/x").unwrap();
        let lines: Vec<&str> = drawing.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width) && lines.len() == width.div_ceil(2));
        assert!(lines[0].chars().all(|char| char == '█'));
    }

    #[test]
    fn a_text_beyond_a_code_is_not_drawn() {
        assert!(draw(&"x".repeat(5000)).is_none());
    }
}
