//! Terminal output of a TOTP enrollment: the seed as a QR code, and recovery codes.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use roster_api::credentials::Enrollment;

use super::prompt::Console;

/// Shows the seed as a QR code and as text.
pub(super) fn present(enrollment: &Enrollment, console: &mut dyn Console) {
    console.print("Scan this with an authenticator app, or type the secret into it:\n");
    if let Some(drawing) = draw(&enrollment.url) {
        console.print(&drawing);
    }
    console.print(&format!("\nSecret: {}\nURL:    {}\n", enrollment.secret, enrollment.url));
}

/// Formats the recovery codes with an explanation.
pub(super) fn recovery_codes(codes: &[String]) -> String {
    format!(
        "Recovery codes, each valid for one login without the app. Keep them safe, they are not shown again:\n\n{}\n",
        codes.join("\n")
    )
}

/// Renders a QR code for the terminal, two modules per character. Returns `None` if the text is too long for one.
fn draw(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    // Draw the light modules, because most terminals have a dark background.
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::ScriptedConsole;

    #[test]
    fn the_seed_is_shown_in_three_ways() {
        let enrollment =
            Enrollment { secret: "ABCDEFGH".to_owned(), url: "otpauth://totp/x?secret=ABCDEFGH".to_owned() };
        let mut console = ScriptedConsole::default();
        present(&enrollment, &mut console);
        let printed = console.printed.join("\n");
        assert!(printed.contains("Secret: ABCDEFGH") && printed.contains(&enrollment.url) && printed.contains('▀'));
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
    fn text_that_is_too_long_is_not_drawn() {
        assert!(draw(&"x".repeat(5000)).is_none());
    }
}
