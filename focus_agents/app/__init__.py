"""A page to try it: draw a box around an object in some pictures, and see where it is in all others.

    uploads    dropped files as pictures
    session    one open page: its pictures, the boxes drawn in them, the answers; all of it in memory
    service    the requests of a page, and their answers
    server     the same over HTTP
    page.html page.css page.js stage.js

The page is our own, and its server the standard library's, as in `focus_agents.integrations.label_studio`: that is no
package more to install, and nothing is fetched from elsewhere. Gradio with its annotator brings some fifty packages,
and asks for fonts and sends statistics unless it is told not to.
"""
