"""Label Studio asks this server for boxes: an ML backend that proposes them from those that are labelled so far.

Its protocol is JSON over HTTP (https://labelstud.io/guide/ml):

    GET /health      whether the server is up
    POST /setup      the project's configuration; the answer's `model_version` changes with the boxes labelled so far,
                     by which Label Studio knows which of its predictions are old
    POST /predict    tasks, each with a picture; the answer has the boxes of each
    POST /webhook    what people have labelled meanwhile; POST /train has all of it at once

Boxes that are labelled so far are those of the tasks that come with a question, of webhooks, and of the project's
export, which is read at a project's first question where there is a token. They are kept in memory. Each label of the
configuration that has boxes is looked for in each picture that has none of it yet; at most one box is proposed of each.

Pictures are read from below one folder, or from Label Studio itself; no other address is asked, and no redirect
followed. The package label-studio-ml is not needed: its last release is of 2023, pins Flask 1.1 and imports Redis.

    host       the Label Studio that pictures and boxes are read from
    layout     what a project's configuration says
    backend    what is asked, and answered
    server     the same over HTTP
"""
