//! The curves of a run as a picture: cost against flows, services and backends.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;

use super::{
    results::{Point, Results},
    scale::{Axis, FLOWS},
};

/// Of the whole picture, in pixels.
const SIZE: (u32, u32) = (1260, 440);
/// Curves: what arrives, and its colour.
const TRAFFIC: [(&str, RGBColor); 2] = [
    ("known", RGBColor(31, 119, 180)),
    ("SYN new", RGBColor(214, 96, 36)),
];

/// Writes an SVG file.
pub fn write(results: &Results, path: &Path) -> Result<()> {
    let svg = render(results)?;
    std::fs::write(path, svg).with_context(|| format!("write the plot {}", path.display()))
}

/// The SVG's text.
pub fn render(results: &Results) -> Result<String> {
    let mut svg = String::new();
    draw(results, &mut svg).map_err(|error| anyhow!("draw the plot: {error}"))?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(results: &Results, svg: &mut String) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!(
        "Cost of a packet in the data plane, as a multiple of one kernel hash lookup ({:.0} ns here)",
        results.floors.hash_lookup.median
    );
    let root = root.titled(&title, ("sans-serif", 18))?;
    let highest = results
        .scale
        .iter()
        .flat_map(|point| &point.measured)
        .map(|measured| measured.multiple.median)
        .fold(1.0, f64::max);
    let panels = root.split_evenly((1, Axis::ALL.len()));
    for (axis, panel) in Axis::ALL.into_iter().zip(&panels) {
        draw_panel(results, axis, highest * 1.1, panel)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    results: &Results,
    axis: Axis,
    highest: f64,
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
) -> Drawn {
    let values = axis.values();
    let (first, last) = (f64::from(values[0]), f64::from(values[values.len() - 1]));
    let mut chart = ChartBuilder::on(panel)
        .margin(14)
        .margin_right(28)
        .x_label_area_size(46)
        .y_label_area_size(46)
        .build_cartesian_2d((first..last).log_scale(), 0.0..highest)?;
    chart
        .configure_mesh()
        .x_desc(description(axis))
        .y_desc("hash lookups")
        .x_labels(values.len())
        .x_label_formatter(&|value| count(*value))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (letter, object) in ('A'..).zip(0..results.objects.len()) {
        for (traffic, colour) in TRAFFIC {
            let of = |point: &&Point| point.axis == axis && point.traffic == traffic;
            let curve: Vec<(f64, f64)> = results
                .scale
                .iter()
                .filter(of)
                .map(|point| {
                    let multiple = point.measured[object].multiple.median;
                    (f64::from(point.value), multiple)
                })
                .collect();
            let style = if object == 0 {
                colour.stroke_width(2)
            } else {
                colour.mix(0.5).stroke_width(2)
            };
            let label = match results.objects.len() {
                1 => format!("TCP, {traffic}"),
                _ => format!("{letter}: TCP, {traffic}"),
            };
            chart
                .draw_series(LineSeries::new(curve.clone(), style).point_size(3))?
                .label(label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

fn description(axis: Axis) -> String {
    let flows = count(FLOWS as f64);
    match axis {
        Axis::Flows => "flows in turn (1 service, 100 backends)".to_owned(),
        Axis::Services => format!("services in turn ({flows} flows, 1 backend each)"),
        Axis::Backends => format!("backends ({flows} flows, 1 service)"),
    }
}

/// 10000 as "10 k".
fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0} M", v / 1e6),
        v if v >= 1e3 => format!("{:.0} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}
